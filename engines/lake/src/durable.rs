//! The object store that Delta's log is written through: the local file system, with every write durable before it is answered.
//!
//! The one that comes with the crate never syncs, and a torn log entry makes a whole table unreadable.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

use crate::disk::Disk;

/// The local file system from its root, durable.
#[derive(Clone, Debug)]
pub struct DurableStore {
    inner: Arc<LocalFileSystem>,
    disk: Disk,
}

impl DurableStore {
    /// The file system, whose acts go through `disk`.
    pub fn new(disk: Disk) -> DurableStore {
        DurableStore {
            inner: Arc::new(LocalFileSystem::new()),
            disk,
        }
    }

    /// As the inner store tells an error of the disk.
    fn look(&self, location: &Path) -> Result<()> {
        let path = self.inner.path_to_filesystem(location)?;
        self.disk.look(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound {
                path: location.to_string(),
                source: source.into(),
            },
            _ => Error::Generic {
                store: "durable",
                source: source.into(),
            },
        })
    }

    fn look_below(&self, prefix: Option<&Path>) -> Result<()> {
        prefix.map_or(Ok(()), |prefix| self.look(prefix))
    }
}

impl fmt::Display for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("durable local file system")
    }
}

async fn put(
    disk: Disk,
    path: PathBuf,
    location: String,
    content: Vec<u8>,
    mode: PutMode,
) -> Result<()> {
    let generic = |source: Box<dyn std::error::Error + Send + Sync>| Error::Generic {
        store: "durable",
        source,
    };
    let work = move || match mode {
        PutMode::Create => disk.create(&path, &content),
        PutMode::Overwrite | PutMode::Update(_) => disk.replace(&path, &content).map(|()| true),
    };
    match tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| generic(error.into()))?
    {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::AlreadyExists {
            source: format!("{location} is there").into(),
            path: location,
        }),
        Err(error) => Err(generic(error.into())),
    }
}

fn joined(payload: &PutPayload) -> Vec<u8> {
    let mut content = Vec::with_capacity(payload.content_length());
    payload
        .iter()
        .for_each(|part| content.extend_from_slice(part));
    content
}

#[async_trait]
impl ObjectStore for DurableStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) {
            return Err(Error::NotImplemented {
                operation: "conditional update".into(),
                implementer: self.to_string(),
            });
        }
        let path = self.inner.path_to_filesystem(location)?;
        put(
            self.disk.clone(),
            path,
            location.to_string(),
            joined(&payload),
            opts.mode,
        )
        .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        Ok(Box::new(Upload {
            disk: self.disk.clone(),
            path,
            location: location.to_string(),
            content: Vec::new(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.look(location)?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.look_below(prefix) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.look_below(prefix) {
            Ok(()) => self.inner.list_with_offset(prefix, offset),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.look_below(prefix)?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        // Nothing that writes a Delta log copies; what would is refused rather than done without a sync.
        Err(Error::NotImplemented {
            operation: "copy".into(),
            implementer: self.to_string(),
        })
    }
}

/// Table checkpoints come in parts; they are small enough to be held, and become visible as one durable file.
#[derive(Debug)]
struct Upload {
    disk: Disk,
    path: PathBuf,
    location: String,
    content: Vec<u8>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.content.extend(joined(&data));
        Box::pin(std::future::ready(Ok(())))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let content = std::mem::take(&mut self.content);
        put(
            self.disk.clone(),
            self.path.clone(),
            self.location.clone(),
            content,
            PutMode::Overwrite,
        )
        .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn abort(&mut self) -> Result<()> {
        self.content.clear();
        std::future::ready(Ok(())).await
    }
}
