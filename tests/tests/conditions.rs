//! A long condition, kept with every receipt: what an attach is told of it must fit the messages.

use agent_source::link::{Link, target};
use prost::Message;
use strait_common::Error;
use strait_common::tls::Dialling;
use strait_proto::v1;
use strait_tests::WAIT_MAX;
use strait_tests::agents::{SinkAgent, SourceAgent, selectors};
use strait_tests::lakes::Lakes;

const DAYS: u32 = 40;
const ROWS: u64 = 3;
/// What a message of positions may take, in encoded bytes; some positions of the longest condition more than its usual size.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// A condition that all rows meet, of nearly the greatest length.
fn long_condition() -> String {
    let numbers: Vec<String> = (0..9_000).map(|number| number.to_string()).collect();
    let condition = format!("id in ({})", numbers.join(", "));
    assert!(condition.len() > 50_000 && condition.len() < 64 << 10);
    condition
}

#[tokio::test(flavor = "multi_thread")]
async fn many_positions_with_a_long_condition_come_in_pages_that_fit() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let start = async || {
        let request = v1::StartRunRequest {
            selectors: Some(v1::Selectors {
                r#where: Some(long_condition()),
                ..selectors()
            }),
            ..v1::StartRunRequest::default()
        };
        let reply = operator.control.clone().start_run(request).await;
        let id = reply
            .map_err(Error::from)?
            .into_inner()
            .run
            .expect("a run")
            .id;
        Ok::<_, Error>(operator.ended(&id).await)
    };
    let run = start().await.expect("the run begins");
    assert_eq!(run.status, "done", "{run:?}");
    let job = serde_json::json!({}).to_string();

    // A second run is told all of it.
    let again = start().await.expect("the run begins");
    assert_eq!(again.status, "done", "{again:?}");
    let progress = again.progress.expect("progress");
    assert_eq!(progress.partitions_already, u64::from(DAYS));
    lakes.assert_equal().await;

    // The same, message by message.
    let mut client = Link::new("b", &sink.url(), &Dialling::default(), WAIT_MAX, WAIT_MAX)
        .expect("a link")
        .client();
    let request = v1::AttachRequest {
        protocol: strait_proto::PROTOCOL_MAX,
        target: Some(target(
            &format!("b:{}", strait_tests::lakes::TABLE)
                .parse()
                .expect("a place"),
        )),
        run: strait_common::ids::RunId::from_u128(5).to_string(),
        agent: "by hand".to_owned(),
        job,
        digest_id: format!("{}-0", strait_common::digest::ALGORITHM),
    };
    let mut replies = client
        .attach(request)
        .await
        .expect("nobody owns it")
        .into_inner();
    let (mut pages, mut positions) = (0, 0);
    while let Some(reply) = replies.message().await.expect("a page that fits") {
        assert!(
            reply.encoded_len() <= PAGE_BYTES_MAX,
            "{} bytes",
            reply.encoded_len()
        );
        if let Some(v1::attach_reply::Body::Positions(page)) = reply.body {
            pages += 1;
            positions += page.positions.len();
            let full = page.positions.len() > 1;
            assert!(full || page.last, "pages are filled");
        }
    }
    assert_eq!(positions, DAYS as usize);
    assert!(pages > 1, "{pages} pages");
}
