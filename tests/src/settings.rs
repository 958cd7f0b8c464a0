//! An agent as a program, up to the moment at which it would listen: what its settings tests share.

use std::path::Path;
use std::process::{Command, Output};

/// One of the two agents.
#[derive(Clone, Copy, Debug)]
pub struct Agent {
    /// The built program.
    pub program: &'static str,
    /// What its environment variables begin with.
    pub prefix: &'static str,
}

impl Agent {
    /// The agent with these arguments and environment, and nothing of ours.
    pub fn run(&self, arguments: &[&str], environment: &[(String, &str)]) -> Output {
        let mut command = Command::new(self.program);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("STRAIT_") {
                command.env_remove(key);
            }
        }
        command.args(arguments);
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        command.output().expect("the program starts")
    }

    /// The environment variable of a key.
    pub fn variable(&self, key: &str) -> String {
        format!("{}{}", self.prefix, key.to_uppercase())
    }

    /// Fails unless each of these keys of TLS, which make sense only together, comes from the flag, else the environment, else the file. `urls` is
    /// what else the file needs.
    pub fn takes_tls_from_flag_environment_and_file(&self, keys: &[&str], urls: &str) {
        let dir = tempfile::tempdir().expect("a directory");
        let given = |from: &str, key: &str| format!("{from}-{key}.pem");
        let file: String = keys
            .iter()
            .map(|key| format!("{key} = \"{}\"\n", given("file", key)))
            .collect();
        let path = dir.path().join("tls.toml");
        let file = write(&path, &format!("listen = \"0.0.0.0:1\"\n{file}{urls}"));
        let from_file = ["--print-config", "--config", &file];
        let environment: Vec<(String, String)> = keys
            .iter()
            .map(|key| (self.variable(key), given("environment", key)))
            .collect();
        let environment: Vec<(String, &str)> = environment
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str()))
            .collect();
        let flags: Vec<String> = keys
            .iter()
            .flat_map(|key| [format!("--{}", key.replace('_', "-")), given("flag", key)])
            .collect();
        let mut from_flags = from_file.to_vec();
        from_flags.extend(flags.iter().map(String::as_str));
        for (from, output) in [
            ("file", self.run(&from_file, &[])),
            ("environment", self.run(&from_file, &environment)),
            ("flag", self.run(&from_flags, &environment)),
        ] {
            let printed = printed(&output);
            for key in keys {
                let expected = given(from, key);
                assert_eq!(printed[*key].as_str(), Some(expected.as_str()), "{key}");
            }
            assert_eq!(printed["insecure"].as_bool(), Some(false));
        }
    }
}

/// The configuration that it printed.
pub fn printed(output: &Output) -> toml::Table {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.parse().expect("TOML")
}

/// What a start that fails says; it must not have listened.
pub fn refused(output: &Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(!error.contains("listening on"), "{error}");
    error
}

/// Writes a file; its path as text.
pub fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).expect("a file is written");
    path.to_str().expect("a path that is text").to_owned()
}
