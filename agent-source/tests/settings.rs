//! The agent as a program, up to the moment at which it would listen: where settings come from, and what is refused before a socket opens.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use agent_source::settings::{Config, Settings};
use strait_common::config;
use strait_common::state_dir::StateDir;
use strait_tests::settings::{Agent, printed, refused, write};

/// Every key: its name, and what file, environment and flag say.
const KEYS: [(&str, [&str; 3]); 21] = [
    ("listen", ["127.0.0.1:1", "127.0.0.1:2", "[::1]:3"]),
    ("state_dir", ["/tmp/one", "/tmp/two", "/tmp/three"]),
    ("name", ["one", "two", "three"]),
    ("memory", ["100MiB", "200MiB", "1GiB"]),
    ("streams_max", ["1", "2", "3"]),
    ("window_frames", ["1", "2", "3"]),
    ("frame_bytes_max", ["1MiB", "2MiB", "5000"]),
    ("chunk_bytes", ["1MiB", "2MiB", "3MiB"]),
    ("finishes_max", ["1", "2", "3"]),
    ("compression", ["none", "zstd:2", "zstd:3"]),
    ("bandwidth_max", ["1MiB", "none", "20MiB"]),
    ("cpu_threads", ["1", "2", "3"]),
    ("engine_timeout", ["1s", "2500ms", "3h"]),
    ("peer_timeout", ["1s", "2m", "3h"]),
    ("disk_used_max", ["70%", "80%", "90%"]),
    ("lease_wait_max", ["1s", "2m", "3h"]),
    ("retries_max", ["0", "2", "3"]),
    ("retry_wait_max", ["1ms", "2m", "3h"]),
    ("grace", ["1ms", "2m", "3h"]),
    ("log", ["warn", "error", "info,h2=warn"]),
    ("log_format", ["json", "text", "json"]),
];

const AGENT: Agent = Agent {
    program: env!("CARGO_BIN_EXE_agent-source"),
    prefix: "STRAIT_SOURCE_",
};

const URLS: &str = "[stores.live]\nurl = \"lake:///file\"\n[sinks.dr]\nurl = \"http://file:1\"\n";

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file_for_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = KEYS
        .iter()
        .map(|(key, values)| match values[0].parse::<u64>() {
            Ok(number) => format!("{key} = {number}\n"),
            Err(_) => format!("{key} = \"{}\"\n", values[0]),
        })
        .collect();
    let file = write(&dir.path().join("source.toml"), &format!("{lines}{URLS}"));
    let flags: Vec<(String, &str)> = KEYS
        .iter()
        .map(|(key, values)| (format!("--{}", key.replace('_', "-")), values[2]))
        .collect();
    let environment: Vec<(String, &str)> = KEYS
        .iter()
        .map(|(key, values)| (AGENT.variable(key), values[1]))
        .collect();
    let with_flags: Vec<&str> = ["--print-config", "--config", &file]
        .into_iter()
        .chain(
            flags
                .iter()
                .flat_map(|(flag, value)| [flag.as_str(), *value]),
        )
        .collect();
    let bare = [
        "--print-config",
        "--store",
        "live=lake:///a",
        "--sink",
        "dr=http://a:1",
    ];
    let defaults = printed(&AGENT.run(&bare, &[]));
    let of_file = printed(&AGENT.run(&with_flags[..3], &[]));
    let of_environment = printed(&AGENT.run(&with_flags[..3], &environment));
    let of_flags = printed(&AGENT.run(&with_flags, &environment));
    let keys: BTreeMap<&str, [&str; 3]> = KEYS.into_iter().collect();
    for (key, default) in &defaults {
        let Some(values) = keys.get(key.as_str()) else {
            assert!(
                ["stores", "sinks", "insecure"].contains(&key.as_str()),
                "{key} is not in this test"
            );
            continue;
        };
        for (printed, expected) in [&of_file, &of_environment, &of_flags]
            .into_iter()
            .zip(values)
        {
            let found = match &printed[key] {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(found, *expected, "{key}");
        }
        assert_ne!(Some(default), of_flags.get(key), "{key} has its default");
    }
    assert_eq!(defaults.len(), KEYS.len() + 3);
    // One key alone, the others from elsewhere.
    for (key, values) in KEYS {
        let alone = printed(&AGENT.run(&with_flags[..3], &[(AGENT.variable(key), values[1])]));
        let others = |table: &toml::Table| {
            let mut table = table.clone();
            table.remove(key);
            table
        };
        assert_eq!(alone[key], of_environment[key], "{key}");
        assert_eq!(others(&alone), others(&of_file), "{key}");
    }
}

#[test]
fn stores_and_sinks_come_from_all_three() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir.path().join("source.toml"), URLS);
    let environment = [
        (
            AGENT.variable("stores"),
            "live=lake:///environment,old=lake:///environment",
        ),
        (AGENT.variable("sinks"), "dr=http://environment:1"),
        (AGENT.variable("config"), file.as_str()),
    ];
    let url = |table: &toml::Table, kind: &str, name: &str| {
        table[kind][name]["url"].as_str().unwrap().to_owned()
    };
    let printed_so = printed(&AGENT.run(&["--print-config"], &environment));
    assert_eq!(url(&printed_so, "stores", "live"), "lake:///environment");
    assert_eq!(url(&printed_so, "stores", "old"), "lake:///environment");
    assert_eq!(url(&printed_so, "sinks", "dr"), "http://environment:1/");
    let flags = [
        "--print-config",
        "--store",
        "more=lake:///flag",
        "--sink",
        "dr=http://flag:1",
        "--sink",
        "two=http://flag:2",
    ];
    let printed_so = printed(&AGENT.run(&flags, &environment));
    assert_eq!(url(&printed_so, "stores", "more"), "lake:///flag");
    assert_eq!(url(&printed_so, "stores", "live"), "lake:///file");
    assert_eq!(url(&printed_so, "sinks", "dr"), "http://flag:1/");
    assert_eq!(url(&printed_so, "sinks", "two"), "http://flag:2/");
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let with = |settings: &str| -> Config {
        let file: Settings = config::parse(settings).unwrap();
        Settings::default().over(file).unwrap()
    };
    let every: String = KEYS
        .iter()
        .map(|(key, values)| format!("{key} = \"{}\"\n", values[2]))
        .map(|line| match line.split('"').nth(1).map(str::parse::<u64>) {
            Some(Ok(_)) => line.replace('"', ""),
            _ => line,
        })
        .collect();
    for settings in [URLS.to_owned(), format!("{every}{URLS}")] {
        let meant = with(&settings);
        let text = meant.to_toml().unwrap();
        let again = with(&text);
        assert_eq!(again.to_toml().unwrap(), text);
        // A URL is printed in its one form.
        let urls = |config: &Config| (config.stores.clone(), config.sinks["dr"].clone());
        assert_eq!(urls(&again).0, urls(&meant).0);
        assert_eq!(urls(&again).1, format!("{}/", urls(&meant).1));
        let sinks = meant.sinks.clone();
        assert_eq!(Config { sinks, ..again }, meant);
    }
    let first = AGENT.run(
        &[
            "--print-config",
            "--store",
            "live=lake:///a",
            "--sink",
            "dr=http://a:1",
            "--name",
            "a \"b\" = [c]\n#",
        ],
        &[],
    );
    let file = write(
        &dir.path().join("printed.toml"),
        &String::from_utf8(first.stdout.clone()).unwrap(),
    );
    let second = AGENT.run(&["--print-config", "--config", &file], &[]);
    assert_eq!(printed(&first), printed(&second));
}

#[test]
fn no_secret_is_printed_or_told() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "hunter2";
    let store = format!("live=dolphindb://user:{secret}@host:8848/?token={secret}#{secret}");
    let sink = format!("dr=http://{secret}:{secret}@host:7402/");
    let state = dir.path().join("state").to_str().unwrap().to_owned();
    let start = ["--state-dir", &state, "--listen", "127.0.0.1:0"];
    let told = |output: Output| {
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!text.contains(secret), "{text}");
        text
    };
    let shown = told(AGENT.run(&["--print-config", "--store", &store, "--sink", &sink], &[]));
    assert!(shown.contains("dolphindb://host:8848/"), "{shown}");
    // A start with it names the store, and what is wrong with its URL.
    let arguments = [&start[..], &["--store", &store, "--sink", &sink]].concat();
    let error = told(AGENT.run(&arguments, &[]));
    assert!(
        error.contains("store live (dolphindb://host:8848/): a password in the URL"),
        "{error}"
    );
    // And so do the ways to write it wrong.
    for wrong in [
        format!("dolphindb://user:{secret}@host"),
        format!("live=user:{secret}@host"),
        format!("live=dolphindb:user:{secret}@host"),
        format!("live=//user:{secret}@host"),
    ] {
        let arguments = [&start[..], &["--store", &wrong, "--sink", "dr=http://a:1"]].concat();
        told(AGENT.run(&arguments, &[]));
        let environment = [(AGENT.variable("stores"), wrong.as_str())];
        let arguments = [&start[..], &["--sink", "dr=http://a:1"]].concat();
        told(AGENT.run(&arguments, &environment));
    }
    let file = format!("[stores]\nlive = \"dolphindb://user:{secret}@host\"");
    let file = write(&dir.path().join("source.toml"), &file);
    let error = told(AGENT.run(&["--config", &file], &[]));
    assert!(
        error.contains("source.toml: line 2: stores.live: "),
        "{error}"
    );
}

#[test]
fn what_is_wrong_is_named_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("source.toml");
    for (settings, expected) in [
        (
            format!("memroy = 1\n{URLS}"),
            "source.toml: line 1: memroy: unknown field `memroy`",
        ),
        (format!("memroy = 1\n{URLS}"), "did you mean memory?"),
        (
            format!("memory = \"256MB?\"\n{URLS}"),
            "line 1: memory: '256MB?' is not a size; write for example 256MiB",
        ),
        (format!("memory = 0\n{URLS}"), "memory = 0 is not between"),
        (
            format!("memory = \"9TiB\"\n{URLS}"),
            "memory = 9895604649984 is not between",
        ),
        (
            format!("grace = \"soon\"\n{URLS}"),
            "line 1: grace: 'soon' is not a duration; write for example 20s",
        ),
        (
            format!("grace = \"9999h\"\n{URLS}"),
            "grace = 9999h is not between 0ms and 720h",
        ),
        (
            format!("peer_timeout = \"999ms\"\n{URLS}"),
            "peer_timeout = 999ms is not between 1s and 720h",
        ),
        (
            format!("listen = \"localhost\"\n{URLS}"),
            "line 1: listen: ",
        ),
        (
            format!("compression = \"gzip\"\n{URLS}"),
            "line 1: compression: 'gzip' is no compression; write auto, none, zstd or zstd:LEVEL",
        ),
        (
            format!("compression = \"zstd:20\"\n{URLS}"),
            "a level from 1 to 19",
        ),
        (
            format!("bandwidth_max = 0\n{URLS}"),
            "bandwidth_max = 0 lets nothing pass; write how many bytes a second may pass, for example 20MiB, or leave it out",
        ),
        (
            format!("bandwidth_max = \"100KiB\"\n{URLS}"),
            "bandwidth_max = 100KiB a second takes more than 10 s for one frame of 1MiB; write at least 104858, or lower frame_bytes_max",
        ),
        (
            format!("bandwidth_max = \"2TiB\"\n{URLS}"),
            "bandwidth_max = 2199023255552 is not between 104858 and 1099511627776",
        ),
        (
            format!("bandwidth_max = \"fast\"\n{URLS}"),
            "line 1: bandwidth_max: 'fast' is not a size; write for example 256MiB, or none",
        ),
        (
            format!("log_format = \"xml\"\n{URLS}"),
            "line 1: log_format: ",
        ),
        (
            format!("streams_max = 0\n{URLS}"),
            "streams_max = 0 is not between 1 and 64",
        ),
        (
            format!("window_frames = 300\n{URLS}"),
            "window_frames = 300 is not between 1 and 256",
        ),
        (
            format!("frame_bytes_max = 100\n{URLS}"),
            "frame_bytes_max = 100 is not between 4096 and",
        ),
        (
            format!("cpu_threads = 0\n{URLS}"),
            "cpu_threads = 0 is not between 1 and 1024",
        ),
        (
            "".to_owned(),
            "no store is named; add [stores.live] with url = \"lake:///data/a\" or --store live=lake:///data/a",
        ),
        (
            "[stores.live]\nurl = \"lake:///a\"".to_owned(),
            "no sink is named; add [sinks.dr] with url = \"http://host:7402\" or --sink dr=http://host:7402",
        ),
        (
            "[stores.live]\n".to_owned(),
            "line 1: stores.live: missing field `url`",
        ),
        (
            URLS.replace("lake:///file", "/data/a"),
            "stores.live.url is no URL (relative URL without a base); write for example lake:///data/a",
        ),
        (
            URLS.replace("http://file:1", "host:1"),
            "sinks.dr.url has no // after its scheme; write for example http://host:7402",
        ),
        (
            URLS.replace("http:", "ftp:"),
            "sinks.dr.url begins with ftp:; write for example http://host:7402",
        ),
        (
            URLS.replace("http:", "https:"),
            "sink dr (https://file:1/): an https URL, and no tls_ca with the certificate of the authority to trust",
        ),
        (
            format!("tls_ca = \"x.pem\"\n{URLS}"),
            "sink dr (http://file:1/): tls_ca is set, and this URL would be spoken to in the clear",
        ),
        ("[stores.live\n".to_owned(), "source.toml: line 1: "),
    ] {
        let file = write(&path, &settings);
        let error = refused(&AGENT.run(&["--config", &file], &[]), 2);
        assert!(error.contains(expected), "{settings}: {error}");
    }
    let missing = dir.path().join("missing.toml");
    let error = refused(&AGENT.run(&["--config", missing.to_str().unwrap()], &[]), 2);
    assert!(error.contains("missing.toml: No such file"), "{error}");
    for (flag, value, expected) in [
        (
            "--memory",
            "256MB?",
            "'256MB?' is not a size; write for example 256MiB",
        ),
        ("--listen", "localhost", "--listen"),
        ("--grace", "soon", "'soon' is not a duration"),
        ("--memroy", "1", "--memory"),
    ] {
        let error = refused(&AGENT.run(&[flag, value], &[]), 2);
        assert!(error.contains(expected), "{flag}: {error}");
    }
    let error = refused(&AGENT.run(&[], &[(AGENT.variable("memory"), "256MB?")]), 2);
    assert!(
        error.contains("--memory") && error.contains("is not a size"),
        "{error}"
    );
}

/// A start that would listen where the test listens: that it says something else first shows that no socket was opened.
#[test]
fn what_can_fail_fails_before_a_socket_opens() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let file = write(&dir.path().join("a-file"), "");
    let lake = format!("live=lake://{}", at("lake"));
    let start = |state: &str, store: &str, more: &[&str]| {
        let fixed = [
            "--listen",
            &address,
            "--sink",
            "dr=http://127.0.0.1:1",
            "--state-dir",
            state,
            "--store",
            store,
        ];
        AGENT.run(&[&fixed[..], more].concat(), &[])
    };
    let error = refused(&start(&format!("{file}/state"), &lake, &[]), 2);
    assert!(
        error.contains(&format!("state_dir {file}/state: ")),
        "{error}"
    );
    let held = StateDir::open(Path::new(&at("held"))).unwrap();
    let error = refused(&start(&at("held"), &lake, &[]), 1);
    assert!(
        error.contains("is in use by another agent; stop it or choose another directory"),
        "{error}"
    );
    drop(held);
    let error = refused(&start(&at("state"), &format!("live=lake://{file}"), &[]), 2);
    assert!(
        error.contains("store live (lake://") && error.contains("is not a directory"),
        "{error}"
    );
    let error = refused(
        &start(&at("state"), &format!("live=lake://{file}/below"), &[]),
        2,
    );
    assert!(error.contains("store live (lake://"), "{error}");
    let error = refused(&start(&at("state"), "live=lake://host/a", &[]), 2);
    assert!(
        error.contains("write lake:///absolute/directory, with three slashes"),
        "{error}"
    );
    // The smallest memory that the message tells is enough; a byte less is not.
    let error = refused(&start(&at("state"), &lake, &["--memory", "1MiB"]), 2);
    assert!(
        error.contains("memory = 1048576 admits no stream, which needs 7340032 bytes"),
        "{error}"
    );
    let error = refused(&start(&at("state"), &lake, &["--memory", "7340031"]), 2);
    assert!(error.contains("admits no stream"), "{error}");
    let error = refused(&start(&at("state"), &lake, &["--log", "what=ever=is"]), 2);
    assert!(error.contains("log = 'what=ever=is'"), "{error}");
    // Only then the address, which is taken.
    let error = refused(&start(&at("state"), &lake, &["--memory", "7340032"]), 2);
    assert!(
        error.contains(&format!("listen on {address}: Address already in use")),
        "{error}"
    );
}

#[test]
fn the_shipped_file_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/source.toml");
    let file: Settings = config::read_file(&path).unwrap();
    let config = Settings::default().over(file).unwrap();
    assert_eq!(config.sinks["dr"], "http://agent-sink:7402");
}

#[test]
fn the_keys_of_tls_come_from_flag_environment_and_file() {
    let keys = ["tls_cert", "tls_key", "tls_client_ca", "tls_ca"];
    AGENT.takes_tls_from_flag_environment_and_file(&keys, &URLS.replace("http:", "https:"));
}
