//! Opens a store by the scheme of its URL.

use strait_common::cpu::CpuPool;
use strait_common::engine::Store;
use strait_common::{Context, Error, Result, config};
use url::Url;

/// The URL schemes of the engines that are built in, with what each takes.
pub const SCHEMES: &[(&str, &str)] = &[
    ("lake", "lake:///DIRECTORY of Delta Lake tables"),
    (
        "dolphindb",
        "dolphindb://USER@HOST:PORT of a DolphinDB node, with ?journal=DIRECTORY to copy to it",
    ),
];

/// Opens the store that a configuration calls `name`. CPU work of the engine runs on `cpu`.
///
/// # Errors
/// `Config` if the URL cannot be read, its scheme is unknown, or the engine refuses it; the message names the store and no secret.
pub async fn open(name: &str, url: &str, cpu: &CpuPool) -> Result<Store> {
    let shown = config::without_secrets(url);
    let context = || format!("store {name} ({shown})");
    let parsed = Url::parse(url)
        .map_err(|_| Error::config("the URL cannot be read"))
        .with_context(context)?;
    match parsed.scheme() {
        "lake" => strait_lake::open(&parsed, cpu.clone())
            .await
            .with_context(context),
        "dolphindb" => strait_dolphindb::open(&parsed, cpu.clone()).with_context(context),
        other => {
            let known: Vec<&str> = SCHEMES.iter().map(|(_, form)| *form).collect();
            Err(Error::config(format!(
                "unknown scheme '{other}'; known are {}",
                known.join(", ")
            )))
            .with_context(context)
        }
    }
}
