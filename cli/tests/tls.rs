//! TLS and mutual TLS between agents as child processes, and from the command line; and every way of getting it wrong.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use strait_tests::lakes::Lakes;
use strait_tests::process::{AgentProcess, Cli, Ended};

const PROGRAM: &str = env!("CARGO_BIN_EXE_strait");
const SYNC: [&str; 5] = ["sync", "--from", "a:db/ticks", "--to", "b:db/ticks"];

/// An authority whose certificate and whose subjects' files lie beside the lakes.
struct Authority {
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(lakes: &Lakes, name: &'static str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).expect("a certificate");
        std::fs::write(lakes.path(&format!("{name}.pem")), cert.pem()).expect("a file");
        Authority {
            name,
            issuer: Issuer::new(params, key),
        }
    }

    /// Makes `NAME.cert.pem` and `NAME.key.pem` for this machine.
    fn issue(&self, lakes: &Lakes, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("a subject");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let write = |what: &str, text: String| {
            std::fs::write(lakes.path(&format!("{name}.{what}.pem")), text).expect("a file");
        };
        write("cert", cert.pem());
        write("key", key.serialize_pem());
    }

    fn file(&self, lakes: &Lakes) -> PathBuf {
        lakes.path(&format!("{}.pem", self.name))
    }
}

fn identity(lakes: &Lakes, name: &str) -> String {
    format!(
        "tls_cert = \"{}\"\ntls_key = \"{}\"\n",
        lakes.path(&format!("{name}.cert.pem")).display(),
        lakes.path(&format!("{name}.key.pem")).display()
    )
}

fn sink_config(lakes: &Lakes, tls: &str) -> PathBuf {
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate_dir = \"{}\"\n{tls}[stores.b]\nurl = \"lake://{}\"\n",
        lakes.path("sink-state").display(),
        lakes.b().display()
    );
    let path = lakes.path("sink.toml");
    std::fs::write(&path, text).expect("a file");
    path
}

fn source_config(lakes: &Lakes, tls: &str, sink_url: &str) -> PathBuf {
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate_dir = \"{}\"\nretries_max = 1\nretry_wait_max = \"1s\"\npeer_timeout = \"2s\"\n{tls}[stores.a]\nurl = \
         \"lake://{}\"\n[sinks.b]\nurl = \"{sink_url}\"\n",
        lakes.path("source-state").display(),
        lakes.a().display()
    );
    let path = lakes.path("source.toml");
    std::fs::write(&path, text).expect("a file");
    path
}

fn https(agent: &AgentProcess) -> String {
    let port = agent.address().rsplit(':').next().expect("a port");
    format!("https://localhost:{port}")
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("text")
}

/// Both agents with an identity each, both asking for one of the same authority.
struct Pair {
    lakes: Lakes,
    authority: Authority,
    sink: AgentProcess,
    source: AgentProcess,
}

impl Pair {
    async fn start() -> Pair {
        let lakes = Lakes::filled(2, 1000).await;
        let authority = Authority::new(&lakes, "authority");
        for name in ["sink", "source", "operator"] {
            authority.issue(&lakes, name);
        }
        let ca = authority.file(&lakes).display().to_string();
        let tls = format!("{}tls_client_ca = \"{ca}\"\n", identity(&lakes, "sink"));
        let config = sink_config(&lakes, &tls);
        let sink = AgentProcess::start(PROGRAM, "agent-sink", &config).await;
        let tls = format!(
            "{}tls_client_ca = \"{ca}\"\ntls_ca = \"{ca}\"\n",
            identity(&lakes, "source")
        );
        let config = source_config(&lakes, &tls, &https(&sink));
        let source = AgentProcess::start(PROGRAM, "agent-source", &config).await;
        Pair {
            lakes,
            authority,
            sink,
            source,
        }
    }

    /// A command of an operator who trusts `ca` and shows the certificate `name`.
    async fn operator(&self, ca: &str, name: Option<&str>, command: &[&str]) -> Ended {
        self.operator_at(&https(&self.source), ca, name, command)
            .await
    }

    async fn operator_at(
        &self,
        url: &str,
        ca: &str,
        name: Option<&str>,
        command: &[&str],
    ) -> Ended {
        let mut arguments = command.to_vec();
        let ca = self.lakes.path(&format!("{ca}.pem"));
        arguments.extend(["--ca", text(&ca)]);
        let files = name.map(|name| {
            let file = |what: &str| self.lakes.path(&format!("{name}.{what}.pem"));
            (file("cert"), file("key"))
        });
        if let Some((cert, key)) = &files {
            arguments.extend(["--cert", text(cert), "--key", text(key)]);
        }
        Cli::new(PROGRAM, url).run(&arguments).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_over_mutual_tls_from_end_to_end() {
    let pair = Pair::start().await;
    let ended = pair.operator("authority", Some("operator"), &SYNC).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    pair.lakes.assert_equal().await;
    for agent in [&pair.sink, &pair.source] {
        assert!(agent.log().contains("tls=\"mutual\""), "{}", agent.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_known_gets_nowhere() {
    let pair = Pair::start().await;
    let other = Authority::new(&pair.lakes, "other");
    other.issue(&pair.lakes, "stranger");
    let stranger = [
        // No certificate, one of another authority, and an agent that this operator does not trust.
        pair.operator("authority", None, &SYNC).await,
        pair.operator("authority", Some("stranger"), &SYNC).await,
        pair.operator("other", Some("operator"), &SYNC).await,
    ];
    for ended in &stranger {
        assert_eq!(ended.code, 5, "{ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
    }
    // An https agent that is spoken to in the clear.
    let url = https(&pair.source).replace("https://", "http://");
    let ended = Cli::new(PROGRAM, &url).run(&SYNC).await;
    assert_eq!(ended.code, 5, "{ended:?}");
    // No authority to trust is a matter of usage.
    let ended = Cli::new(PROGRAM, &https(&pair.source)).run(&SYNC).await;
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("--ca"), "{ended:?}");
    // Nor is one who means to be private and writes the wrong URL heard in the clear.
    let ended = pair.operator_at(&url, "authority", Some("operator"), &SYNC);
    let ended = ended.await;
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("in the clear"), "{ended:?}");
    // Nothing of this reached a table.
    assert!(!pair.lakes.b().join("db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_beside_b_has_its_source_begin_over_mutual_tls() {
    let pair = Pair::start().await;
    let ca = pair.authority.file(&pair.lakes).display().to_string();
    let identity = identity(&pair.lakes, "sink");
    // Another agent over the same lake, which only has jobs.
    let with_jobs = |tls: &str| {
        let config = sink_config(&pair.lakes, &format!("{identity}{tls}"));
        let text = std::fs::read_to_string(&config).expect("a file");
        let text = text.replace("sink-state", "jobs-state");
        let source = https(&pair.source);
        let text = format!("{text}[sources.main]\nurl = \"{source}\"\n");
        std::fs::write(&config, text).expect("a file");
        config
    };
    let said = refused("agent-sink", &with_jobs("")).await;
    assert!(
        said.contains("source main") && said.contains("tls_ca"),
        "{said}"
    );
    let config = with_jobs(&format!("tls_client_ca = \"{ca}\"\ntls_ca = \"{ca}\"\n"));
    let sink = AgentProcess::start(PROGRAM, "agent-sink", &config).await;
    let file = pair.lakes.path("nightly.toml");
    let job = "name = \"nightly\"\nfrom = \"a:db/ticks\"\nto = \"b:db/ticks\"\nmode = \"mirror\"\n";
    std::fs::write(&file, job).expect("a file");
    let url = https(&sink);
    for command in [
        ["job", "apply", text(&file)].as_slice(),
        &["job", "run", "nightly"],
        &["why", "nightly"],
    ] {
        let ended = pair.operator_at(&url, "authority", Some("operator"), command);
        let ended = ended.await;
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    pair.lakes.assert_equal().await;
    // What only a source agent does is said to be so.
    let ended = pair.operator_at(&url, "authority", Some("operator"), &["runs", "list"]);
    let ended = ended.await;
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.stderr.contains("asked of a source agent"),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_asks_for_a_certificate_turns_away_a_source_without_one() {
    let mut pair = Pair::start().await;
    pair.source.signal(Signal::KILL);
    pair.source.ended().await;
    let ca = pair.authority.file(&pair.lakes).display().to_string();
    let config = source_config(
        &pair.lakes,
        &format!("tls_ca = \"{ca}\"\n"),
        &https(&pair.sink),
    );
    let source = AgentProcess::start(PROGRAM, "agent-source", &config).await;
    let ended = Cli::new(PROGRAM, &source.url()).run(&SYNC).await;
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.stderr.contains("sink b"), "{ended:?}");
    assert!(!pair.lakes.b().join("db").exists());
}

/// Starts an agent that does not start, and says why.
async fn refused(name: &str, config: &std::path::Path) -> String {
    let ended = Cli::new(PROGRAM, "http://127.0.0.1:1")
        .run(&[name, "--config", text(config)])
        .await;
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(!ended.stderr.contains("listening"), "{ended:?}");
    ended.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_refused_before_the_socket_opens() {
    let lakes = Lakes::filled(1, 10).await;
    let authority = Authority::new(&lakes, "authority");
    authority.issue(&lakes, "sink");
    authority.issue(&lakes, "mixed");
    let start = async |tls: &str| refused("agent-sink", &sink_config(&lakes, tls)).await;

    let both = identity(&lakes, "sink");
    let (cert, key) = both.split_once('\n').expect("two lines");
    assert!(start(&format!("{cert}\n")).await.contains("tls_key is not"));
    assert!(start(key).await.contains("tls_cert is not"));
    let ca = authority.file(&lakes).display().to_string();
    let said = start(&format!("tls_client_ca = \"{ca}\"\n")).await;
    assert!(said.contains("tls_client_ca"), "{said}");

    let absent = both.replace("sink.key.pem", "nobody.key.pem");
    assert!(start(&absent).await.contains("nobody.key.pem"));
    let swapped = both.replace("sink.key.pem", "sink.cert.pem");
    assert!(start(&swapped).await.contains("holds no PEM block"));
    // The key of another certificate.
    let mixed = both.replace("sink.key.pem", "mixed.key.pem");
    assert!(start(&mixed).await.contains("mixed.key.pem"));

    // The first line of both files is where they listen.
    let open = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a file");
        std::fs::write(&path, text.replace("127.0.0.1:0", "0.0.0.0:0")).expect("a file");
        path
    };
    let said = refused("agent-sink", &open(sink_config(&lakes, ""))).await;
    assert!(said.contains("insecure = true"), "{said}");
    let said = refused(
        "agent-source",
        &open(source_config(&lakes, "", "http://127.0.0.1:1")),
    )
    .await;
    assert!(said.contains("insecure = true"), "{said}");
    let said = refused(
        "agent-source",
        &source_config(&lakes, "", "https://127.0.0.1:1"),
    )
    .await;
    assert!(said.contains("tls_ca"), "{said}");

    // Said to be meant.
    let config = open(sink_config(&lakes, "insecure = true\n"));
    AgentProcess::start(PROGRAM, "agent-sink", &config).await;
}
