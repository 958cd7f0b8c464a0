//! Telling people and machines what became of a start. Whether that works changes nothing about it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use strait_common::{Error, Kind, OrError, Result, config};
use tokio::io::AsyncWriteExt;

use crate::book::Told;
use crate::file::{JobFile, Way};

/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(20);
/// The waits before further tries.
const WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
];
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 3;

/// What is told, as JSON.
pub fn text(job: &JobFile, told: &Told, now: i64) -> String {
    let (from, to) = job.tables();
    json!({
        "job": job.name,
        "event": told.event.name(),
        "scheduled_for": told.at,
        "at": now,
        "group": told.group.map(|group| group.to_string()),
        "from": from,
        "to": to,
        "message": told.message,
    })
    .to_string()
}

/// Tells, within a bound of tries; what fails is logged. Whether it was told.
pub async fn send(job: &str, way: &Way, text: &str) -> bool {
    send_after(job, way, text, &WAITS).await
}

async fn send_after(job: &str, way: &Way, text: &str, waits: &[Duration]) -> bool {
    let mut waits = waits.iter();
    loop {
        let tried = tokio::time::timeout(TRY_MAX, once(way, text)).await;
        let error = match tried {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => Error::unavailable(format!("no answer for {} s", TRY_MAX.as_secs())),
        };
        match waits.next() {
            Some(wait) => {
                tracing::warn!(job, %error, wait_ms = wait.as_millis() as u64, "a notification will be sent again");
                tokio::time::sleep(*wait).await;
            }
            None => {
                tracing::error!(job, %error, "a notification could not be sent");
                return false;
            }
        }
    }
}

async fn once(way: &Way, text: &str) -> Result<()> {
    match way {
        Way::Webhook(url) => post(url, text)
            .await
            .map_err(|error| error.context(config::without_secrets(url))),
        Way::Command(command) => run(command, text).await,
    }
}

/// One POST over a connection of its own. What `https` trusts is what the machine trusts, or the file that `SSL_CERT_FILE` names.
async fn post(url: &str, text: &str) -> Result<()> {
    // A URL may have a secret in it, and is named by whoever calls.
    let failed =
        |error: reqwest::Error| Error::unavailable("POST").with_source(error.without_url());
    let client = reqwest::Client::builder()
        .user_agent(concat!("strait/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
        .build()
        .map_err(failed)?;
    let post = client
        .post(url)
        .header("Content-Type", "application/json")
        .body(text.to_owned());
    let status = post.send().await.map_err(failed)?.status();
    match status.is_success() {
        true => Ok(()),
        false => Err(Error::unavailable(format!("it answered '{status}'"))),
    }
}

/// Runs a program with the JSON on its standard input. It dies with whoever waits for it.
async fn run(command: &[String], text: &str) -> Result<()> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::config("an empty command"))?;
    let context = || format!("command {program}");
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .or_error(Kind::Unavailable, context())?;
    if let Some(mut input) = child.stdin.take() {
        // A program need not read what it is given.
        let _ = input.write_all(text.as_bytes()).await;
    }
    let status = child.wait().await.or_error(Kind::Unavailable, context())?;
    if status.success() {
        return Ok(());
    }
    Err(Error::unavailable(format!("{}: {status}", context())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    /// A server that answers each of these, and the bodies that it was sent.
    async fn server(
        answers: &'static [&'static str],
    ) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        #[allow(clippy::disallowed_methods)]
        let task = tokio::task::spawn(async move {
            let mut bodies = Vec::new();
            for answer in answers {
                let (mut connection, _) = listener.accept().await.unwrap();
                let (mut seen, mut part) = (String::new(), [0; 1024]);
                while !seen.ends_with('}') {
                    let read = connection.read(&mut part).await.unwrap();
                    assert_ne!(read, 0, "cut short: {seen}");
                    seen.push_str(str::from_utf8(&part[..read]).unwrap());
                }
                connection.write_all(answer.as_bytes()).await.unwrap();
                let (head, body) = seen.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with("POST /hook HTTP/1.1"), "{head}");
                let head = head.to_lowercase();
                assert!(head.contains("content-type: application/json"), "{head}");
                bodies.push(body.to_owned());
            }
            bodies
        });
        (url, task)
    }

    const AT_ONCE: [Duration; 3] = [Duration::ZERO; 3];

    #[tokio::test]
    async fn a_webhook_that_fails_is_sent_again_until_it_is_taken() {
        let answers = &[
            "HTTP/1.1 503 Busy\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ];
        let (url, server) = server(answers).await;
        let text = "{\"event\":\"success\"}";
        send_after("nightly", &Way::Webhook(url), text, &AT_ONCE).await;
        let bodies = server.await.unwrap();
        assert_eq!(bodies, ["{\"event\":\"success\"}"; 2]);
    }

    #[tokio::test]
    async fn tries_end() {
        let answers = &["HTTP/1.1 500 No\r\n\r\n"; 4];
        let (url, server) = server(answers).await;
        send_after("nightly", &Way::Webhook(url), "{}", &AT_ONCE).await;
        assert_eq!(
            server.await.unwrap().len(),
            4,
            "once, and three times again"
        );
    }

    #[tokio::test]
    async fn a_command_gets_the_text_and_its_failure_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("told");
        let shell = |script: String| vec!["sh".to_owned(), "-c".to_owned(), script];
        run(&shell(format!("cat > {}", file.display())), "{\"a\":1}")
            .await
            .unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"a\":1}");
        let error = run(&shell("exit 3".to_owned()), "{}").await.unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }
}
