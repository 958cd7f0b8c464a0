//! The agent as a program, up to the moment at which it would listen: where settings come from, and what is refused before a socket opens.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use agent_sink::settings::{Config, Settings};
use strait_common::config;
use strait_common::state_dir::StateDir;
use strait_tests::settings::{Agent, printed, refused, write};

/// Every key: its name, and what file, environment and flag say.
const KEYS: [(&str, [&str; 3]); 10] = [
    ("listen", ["127.0.0.1:1", "127.0.0.1:2", "[::1]:3"]),
    ("state_dir", ["/tmp/one", "/tmp/two", "/tmp/three"]),
    ("memory", ["100MiB", "200MiB", "1GiB"]),
    ("cpu_threads", ["1", "2", "3"]),
    ("engine_timeout", ["1s", "2500ms", "3h"]),
    ("peer_timeout", ["1s", "2m", "3h"]),
    ("disk_used_max", ["70%", "80%", "90%"]),
    ("grace", ["1ms", "2m", "3h"]),
    ("log", ["warn", "error", "info,h2=warn"]),
    ("log_format", ["json", "text", "json"]),
];

const AGENT: Agent = Agent {
    program: env!("CARGO_BIN_EXE_agent-sink"),
    prefix: "STRAIT_SINK_",
};

/// The lines of a file with the values of one column of [`KEYS`].
fn lines(column: usize) -> String {
    let line = |(key, values): &(&str, [&str; 3])| match values[column].parse::<u64>() {
        Ok(number) => format!("{key} = {number}\n"),
        Err(_) => format!("{key} = \"{}\"\n", values[column]),
    };
    KEYS.iter().map(line).collect()
}

const URLS: &str = "[stores.lake]\nurl = \"lake:///file\"\n";

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file_for_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        &dir.path().join("sink.toml"),
        &format!("{}{URLS}", lines(0)),
    );
    let mut arguments = vec!["--print-config".to_owned(), "--config".to_owned(), file];
    let from_file = arguments.len();
    let mut environment = Vec::new();
    for (key, values) in KEYS {
        arguments.extend([format!("--{}", key.replace('_', "-")), values[2].to_owned()]);
        environment.push((AGENT.variable(key), values[1]));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runs = [
        printed(&AGENT.run(&arguments[..from_file], &[])),
        printed(&AGENT.run(&arguments[..from_file], &environment)),
        printed(&AGENT.run(&arguments, &environment)),
    ];
    let defaults = printed(&AGENT.run(&["--print-config", "--store", "lake=lake:///a"], &[]));
    assert_eq!(defaults.len(), KEYS.len() + 2, "a key is not in this test");
    for (key, values) in KEYS {
        for (printed, expected) in runs.iter().zip(values) {
            let found = match &printed[key] {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(found, expected, "{key}");
        }
        assert_ne!(defaults[key], runs[2][key], "{key} has its default");
        let alone =
            printed(&AGENT.run(&arguments[..from_file], &[(AGENT.variable(key), values[1])]));
        assert_eq!(alone[key], runs[1][key], "{key}");
        let mut others = alone;
        others.insert(key.to_owned(), runs[0][key].clone());
        assert_eq!(others, runs[0], "{key} changes another");
    }
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same_and_holds_no_secret() {
    let with = |settings: &str| -> Config {
        let file: Settings = config::parse(settings).unwrap();
        Settings::default().over(file).unwrap()
    };
    for settings in [URLS.to_owned(), format!("{}{URLS}", lines(2))] {
        let meant = with(&settings);
        assert_eq!(with(&meant.to_toml().unwrap()), meant);
    }
    let store = "lake=dolphindb://user:hunter2@host:8848/?token=hunter2#hunter2";
    let shown = AGENT.run(&["--print-config", "--store", store], &[]);
    assert_eq!(
        printed(&shown)["stores"]["lake"]["url"].as_str(),
        Some("dolphindb://host:8848/")
    );
    for wrong in ["dolphindb://user:hunter2@host", "lake=user:hunter2@host"] {
        for output in [
            AGENT.run(&["--store", wrong], &[]),
            AGENT.run(&[], &[(AGENT.variable("stores"), wrong)]),
        ] {
            let error = refused(&output, 2);
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("lake:///data/b"), "{error}");
        }
    }
}

#[test]
fn sources_come_from_file_environment_and_flag_and_show_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{URLS}[sources.file]\nurl = \"http://file:7401\"\n");
    let file = write(&dir.path().join("sink.toml"), &text);
    let variable = AGENT.variable("sources");
    let arguments = ["--print-config", "--config", &file, "--source"];
    let shown = |more: &str, environment: &[(String, &str)]| {
        let mut arguments = arguments.to_vec();
        match more {
            "" => drop(arguments.pop()),
            more => arguments.push(more),
        }
        let shown = printed(&AGENT.run(&arguments, environment));
        let sources = shown["sources"].as_table().unwrap().clone();
        sources
            .into_iter()
            .map(|(name, source)| (name, source["url"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let file = || ("file".to_owned(), "http://file:7401/".to_owned());
    assert_eq!(shown("", &[]), [file()]);
    let main = ("main".to_owned(), "http://a:7401/".to_owned());
    let flag = shown("main=http://user:hunter2@a:7401", &[]);
    assert_eq!(flag, [file(), main.clone()]);
    let said = shown("", &[(variable, "main=http://user:hunter2@a:7401")]);
    assert_eq!(said, [file(), main]);
    for (source, expected) in [
        ("main=ftp://a", "sources.main.url"),
        (
            "main=https://a",
            "source main (https://a/): an https URL, and no tls_ca",
        ),
    ] {
        let output = AGENT.run(&["--store", "lake=lake:///a", "--source", source], &[]);
        let error = refused(&output, 2);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_wrong_is_named_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sink.toml");
    for (settings, expected) in [
        (
            format!("memroy = 1\n{URLS}"),
            "sink.toml: line 1: memroy: unknown field `memroy`",
        ),
        (format!("memroy = 1\n{URLS}"), "did you mean memory?"),
        (
            format!("memory = \"256MB?\"\n{URLS}"),
            "line 1: memory: '256MB?' is not a size; write for example 256MiB",
        ),
        (format!("memory = 0\n{URLS}"), "memory = 0 is not between"),
        (
            format!("cpu_threads = 0\n{URLS}"),
            "cpu_threads = 0 is not between 1 and 1024",
        ),
        (
            format!("engine_timeout = \"0s\"\n{URLS}"),
            "engine_timeout = 0ms is not between 1s and 720h",
        ),
        (
            format!("peer_timeout = \"721h\"\n{URLS}"),
            "peer_timeout = 721h is not between 1s and 720h",
        ),
        (
            "".to_owned(),
            "no store is named; add [stores.lake] with url = \"lake:///data/b\" or --store lake=lake:///data/b",
        ),
        (
            "[stores.lake]\n".to_owned(),
            "line 1: stores.lake: missing field `url`",
        ),
        (
            URLS.replace("lake:///file", "/data/b"),
            "stores.lake.url is no URL (relative URL without a base); write for example lake:///data/b",
        ),
        (
            format!("{URLS}[sinks.dr]\nurl = \"http://a\"\n"),
            "line 3: sinks.dr: unknown field `sinks`",
        ),
    ] {
        let file = write(&path, &settings);
        let error = refused(&AGENT.run(&["--config", &file], &[]), 2);
        assert!(error.contains(expected), "{settings}: {error}");
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
    let lake = format!("lake=lake://{}", at("lake"));
    let start = |state: &str, store: &str, more: &[&str]| {
        let fixed = ["--listen", &address, "--state-dir", state, "--store", store];
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
    let error = refused(&start(&at("state"), &format!("lake=lake://{file}"), &[]), 2);
    assert!(
        error.contains("store lake (lake://") && error.contains("is not a directory"),
        "{error}"
    );
    let error = refused(&start(&at("state"), "lake=ftp://host/", &[]), 2);
    assert!(
        error.contains(
            "store lake (ftp://host/): unknown scheme 'ftp'; known are lake:///DIRECTORY"
        ),
        "{error}"
    );
    // The smallest memory that the message tells is enough; a byte less is not.
    let error = refused(&start(&at("state"), &lake, &["--memory", "16MiB"]), 2);
    let least = error
        .split("needs ")
        .nth(1)
        .and_then(|text| text.split(' ').next())
        .unwrap();
    assert!(
        error.contains("memory = 16777216 admits no stream: store lake needs"),
        "{error}"
    );
    let less = (least.parse::<u64>().unwrap() - 1).to_string();
    let error = refused(&start(&at("state"), &lake, &["--memory", &less]), 2);
    assert!(error.contains("admits no stream"), "{error}");
    // Only then the address, which is taken.
    let error = refused(&start(&at("state"), &lake, &["--memory", least]), 2);
    assert!(
        error.contains(&format!("listen on {address}: Address already in use")),
        "{error}"
    );
}

#[test]
fn the_shipped_file_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sink.toml");
    let file: Settings = config::read_file(&path).unwrap();
    let config = Settings::default().over(file).unwrap();
    assert_eq!(config.stores["lake"], "lake:///data/lake");
}

#[test]
fn the_keys_of_tls_come_from_flag_environment_and_file() {
    let keys = ["tls_cert", "tls_key", "tls_client_ca"];
    AGENT.takes_tls_from_flag_environment_and_file(&keys, URLS);
}
