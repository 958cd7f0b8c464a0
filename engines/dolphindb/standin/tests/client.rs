//! Our client against the stand-in: logins, blocks, what goes wrong on the way, and that nothing is used out of step.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use strait_common::Kind;
use strait_dolphindb::{
    Argument, Cause, Cluster, Column, ColumnType, Failure, Login, Options, Secret, Site, Trust,
    Type, User, samples,
};
use strait_dolphindb_standin::{Fault, Offers, Settings, StandIn};

fn options(standins: &[&StandIn]) -> Options {
    let mut options = Options::of_site("", 0);
    options.sites = standins.iter().map(|standin| site(standin)).collect();
    options.user = Some(User {
        name: "admin".into(),
        password: Secret::new("123456"),
    });
    options
}

fn site(standin: &StandIn) -> Site {
    Site {
        host: standin.address().ip().to_string(),
        port: standin.address().port(),
    }
}

async fn standin() -> StandIn {
    StandIn::start(Settings::default()).await.unwrap()
}

fn numbers(count: i64) -> RecordBatch {
    let column = ColumnType::plain(Type::Long).field("n");
    let array: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
    RecordBatch::try_new(
        Arc::new(arrow::datatypes::Schema::new(vec![column])),
        vec![array],
    )
    .unwrap()
}

/// `dfs://db/t` with so many numbers.
async fn filled(cluster: &Cluster, count: i64) {
    let mut lease = cluster.connect().await.unwrap();
    let connection = lease.connection();
    connection
        .upload("sample", &Argument::Table(numbers(0)))
        .await
        .unwrap();
    let make = "db = database(\"dfs://db\", VALUE, [1]); createTable(db, sample, `t)";
    connection.script(make).await.unwrap();
    let insert = "tableInsert{loadTable(\"dfs://db\", \"t\")}";
    let inserted = connection
        .call(insert, &[Argument::Table(numbers(count))])
        .await
        .unwrap();
    assert_eq!(inserted.integer().unwrap(), count);
}

const ALL: &str = "select * from loadTable(\"dfs://db\", \"t\")";
const COUNT: &str = "exec count(*) from loadTable(\"dfs://db\", \"t\")";

#[tokio::test]
async fn each_way_of_login_is_taken_where_it_is_offered_and_no_weaker_one() {
    // The server knows SCRAM, and of the user by it; it knows RSA.
    let offers = [
        (true, true, true),
        (true, false, true),
        (false, false, true),
        (false, false, false),
    ];
    for (known, scram, rsa) in offers {
        let settings = Settings {
            offers: Offers {
                scram: known,
                scram_user: scram,
                rsa,
            },
            ..Settings::default()
        };
        let standin = StandIn::start(settings).await.unwrap();
        for (login, works) in [
            (Login::Auto, scram || rsa),
            (Login::Scram, scram),
            (Login::Rsa, rsa),
            (Login::Plain, true),
        ] {
            let mut options = options(&[&standin]);
            options.login = login;
            let cluster = Cluster::new(options.clone()).unwrap();
            let connected = cluster.connect().await;
            assert_eq!(
                connected.is_ok(),
                works,
                "{login:?} with scram {known}, {scram}, rsa {rsa}: {connected:?}"
            );
            if let (Login::Scram, true, Err(error)) = (login, known, &connected) {
                assert!(error.to_string().contains("login=auto"), "{error}");
            }
            // A wrong password is refused, and is not tried again in a weaker way.
            let before = standin.log().len();
            options.user.as_mut().unwrap().password = Secret::new("wrong");
            let error = Cluster::new(options).unwrap().connect().await.unwrap_err();
            let asked = standin.log()[before..].join("\n");
            if works {
                assert_eq!(error.kind(), Kind::Config, "{error}");
            }
            if login != Login::Plain && scram && login != Login::Rsa {
                assert!(!asked.contains("function login"), "{asked}");
            }
            assert!(!error.to_string().contains("wrong"), "{error}");
        }
    }
}

#[tokio::test]
async fn rows_of_every_type_come_back_compressed_or_not() {
    for compress in [false, true] {
        let standin = standin().await;
        let mut options = options(&[&standin]);
        options.compress = compress;
        let cluster = Cluster::new(options).unwrap();
        let mut lease = cluster.connect().await.unwrap();
        let rows = samples::table(1000).unwrap();
        lease
            .connection()
            .upload("t", &Argument::Table(rows.clone()))
            .await
            .unwrap();
        let back = lease
            .connection()
            .script("select * from t")
            .await
            .unwrap()
            .into_table()
            .unwrap();
        assert_eq!(back.schema(), rows.schema());
        assert_eq!(back.num_rows(), rows.num_rows());
        for (at, field) in rows.schema().fields().iter().enumerate() {
            if field.name() != "symbol" {
                assert_eq!(rows.column(at), back.column(at), "{}", field.name());
            }
        }
    }
}

#[tokio::test]
async fn blocks_come_one_by_one_and_the_connection_is_used_again() {
    let standin = standin().await;
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    filled(&cluster, 20_000).await;
    let mut blocks = cluster.blocks(ALL, 1).await.unwrap();
    let mut sizes = Vec::new();
    let mut next = 0;
    while let Some(block) = blocks.next().await.unwrap() {
        sizes.push(block.num_rows());
        for value in block.column(0).as_primitive::<Int64Type>() {
            assert_eq!(value, Some(next));
            next += 1;
        }
    }
    assert_eq!(sizes, [8192, 8192, 3616]);
    assert!(blocks.next().await.unwrap().is_none());
    drop(blocks);
    assert_eq!(
        cluster.read(COUNT).await.unwrap().integer().unwrap(),
        20_000
    );
    let connects = standin
        .log()
        .iter()
        .filter(|line| line.starts_with("connect"))
        .count();
    assert_eq!(connects, 1, "{:?}", standin.log());
}

#[tokio::test]
async fn a_table_without_rows_is_one_in_blocks_too() {
    let standin = standin().await;
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    filled(&cluster, 0).await;
    let head = b"1 1 1\nOK\n";
    let none = [
        &head[..],
        &[25, 1],
        &0i32.to_le_bytes(),
        &1i32.to_le_bytes(),
    ]
    .concat();
    let plain = [
        &head[..],
        &[0, 6],
        &0i32.to_le_bytes(),
        &1i32.to_le_bytes(),
        b"\0n\0",
        &[5, 1],
        &0i32.to_le_bytes(),
        &1i32.to_le_bytes(),
    ]
    .concat();
    for answer in [None, Some(none), Some(plain)] {
        if let Some(bytes) = answer {
            standin.fault("select *", Fault::Answer(bytes));
        }
        let mut blocks = cluster.blocks(ALL, 8192).await.unwrap();
        let mut rows = 0;
        while let Some(block) = blocks.next().await.unwrap() {
            rows += block.num_rows();
        }
        drop(blocks);
        assert_eq!(rows, 0);
        assert_eq!(cluster.read(COUNT).await.unwrap().integer().unwrap(), 0);
    }
}

#[tokio::test]
async fn blocks_that_are_left_early_close_their_connection() {
    let standin = standin().await;
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    filled(&cluster, 20_000).await;
    let mut blocks = cluster.blocks(ALL, 8192).await.unwrap();
    blocks.next().await.unwrap().unwrap();
    drop(blocks);
    assert_eq!(
        cluster.read(COUNT).await.unwrap().integer().unwrap(),
        20_000
    );
    let connects = standin
        .log()
        .iter()
        .filter(|line| line.starts_with("connect"))
        .count();
    assert_eq!(connects, 2, "{:?}", standin.log());
}

#[tokio::test]
async fn an_error_of_the_servers_leaves_the_connection_in_use() {
    let standin = standin().await;
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    let mut lease = cluster.connect().await.unwrap();
    let connection = lease.connection();
    let failure = connection.script("nonsense").await.unwrap_err();
    assert!(
        matches!(&failure, Failure::Server(error) if error.text.contains("nonsense")),
        "{failure:?}"
    );
    standin.fault(
        "1+1",
        Fault::Say("<ChunkInTransaction>locked RefId:S00002".into()),
    );
    let failure = connection.script("1+1").await.unwrap_err();
    assert!(
        matches!(&failure, Failure::Server(error) if error.cause == Cause::ChunkLocked),
        "{failure:?}"
    );
    assert_eq!(
        connection.script("1+1").await.unwrap().integer().unwrap(),
        2
    );
}

#[tokio::test]
async fn a_value_that_is_refused_leaves_the_connection_in_use_and_sends_nothing() {
    let standin = standin().await;
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    let mut lease = cluster.connect().await.unwrap();
    let connection = lease.connection();
    let before = standin.log().len();
    let array: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN]));
    let vector = Argument::Vector(Column {
        kind: ColumnType::plain(Type::Long),
        array,
    });
    let failure = connection.call("sum", &[vector]).await.unwrap_err();
    assert!(matches!(failure, Failure::Unsent(_)), "{failure:?}");
    assert_eq!(standin.log().len(), before);
    assert_eq!(
        connection.script("1+1").await.unwrap().integer().unwrap(),
        2
    );
}

/// Garbage, a cut and a silence: in each case nothing is asked on that connection any more.
#[tokio::test]
async fn a_broken_answer_poisons_its_connection() {
    let standin = standin().await;
    let mut options = options(&[&standin]);
    options.idle_timeout = Duration::from_millis(200);
    options.answer_timeout = Duration::from_millis(500);
    let cluster = Cluster::new(options).unwrap();
    filled(&cluster, 100).await;
    let table = [
        b"1 1 1\nOK\n".as_slice(),
        &[0, 6],
        &i32::MAX.to_le_bytes(),
        &1i32.to_le_bytes(),
        b"\0n\0",
        &[5, 1],
        &i32::MAX.to_le_bytes(),
    ]
    .concat();
    let faults = [
        (
            Fault::Answer(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            Kind::Corrupt,
        ),
        (Fault::Answer(b"1 7 1\nOK\n".to_vec()), Kind::Corrupt),
        (
            Fault::Answer(b"1 1 1\nOK\n\x2a\x01".to_vec()),
            Kind::Unavailable,
        ),
        (Fault::Answer(table), Kind::Unavailable),
        (Fault::Answer(Vec::new()), Kind::Unavailable),
        (Fault::Truncate(40), Kind::Unavailable),
        (Fault::LoseBefore, Kind::Unavailable),
        (Fault::LoseAfter, Kind::Unavailable),
    ];
    for (fault, kind) in faults {
        let mut lease = cluster.connect_anew().await.unwrap();
        standin.fault("select *", fault.clone());
        let failure = lease.connection().script(ALL).await.unwrap_err();
        assert!(
            matches!(failure, Failure::Lost(_)),
            "{fault:?}: {failure:?}"
        );
        let error = strait_common::Error::from(failure);
        assert_eq!(error.kind(), kind, "{fault:?}: {error}");
        // An answer to the next question could be that of the last one.
        let asked = standin.log().len();
        let failure = lease.connection().script("1+1").await.unwrap_err();
        assert!(
            matches!(failure, Failure::Unsent(_)),
            "{fault:?}: {failure:?}"
        );
        assert_eq!(standin.log().len(), asked, "{fault:?}");
        drop(lease);
        assert_eq!(
            cluster.read(COUNT).await.unwrap().integer().unwrap(),
            100,
            "{fault:?}"
        );
    }
    assert_eq!(standin.faults_left(), 0);
}

/// Whoever stops waiting leaves an answer behind.
#[tokio::test]
async fn a_request_that_is_dropped_poisons_its_connection() {
    let standin = standin().await;
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    let mut lease = cluster.connect().await.unwrap();
    standin.fault("1+1", Fault::Slow(Duration::from_millis(300)));
    let asked =
        tokio::time::timeout(Duration::from_millis(50), lease.connection().script("1+1")).await;
    assert!(asked.is_err());
    let failure = lease.connection().script("2+2").await.unwrap_err();
    assert!(matches!(failure, Failure::Unsent(_)), "{failure:?}");
    drop(lease);
    assert_eq!(cluster.read("2+3").await.unwrap().integer().unwrap(), 5);
}

#[tokio::test]
async fn a_lost_answer_of_an_append_does_not_say_whether_it_took_place() {
    let standin = standin().await;
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    filled(&cluster, 10).await;
    for (fault, rows) in [(Fault::LoseBefore, 10), (Fault::LoseAfter, 15)] {
        let mut lease = cluster.connect_anew().await.unwrap();
        standin.fault("tableInsert", fault);
        let insert = "tableInsert{loadTable(\"dfs://db\", \"t\")}";
        let failure = lease
            .connection()
            .call(insert, &[Argument::Table(numbers(5))])
            .await
            .unwrap_err();
        assert!(matches!(failure, Failure::Lost(_)), "{failure:?}");
        assert_eq!(cluster.read(COUNT).await.unwrap().integer().unwrap(), rows);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let standin = standin().await;
    let mut options = options(&[&standin]);
    options.answer_bytes_max = 100_000;
    let cluster = Cluster::new(options).unwrap();
    filled(&cluster, 20_000).await;
    let error = cluster.read(ALL).await.unwrap_err();
    assert!(error.to_string().contains("answer_max"), "{error}");
    // In blocks it fits: each is counted for itself.
    let mut blocks = cluster.blocks(ALL, 8192).await.unwrap();
    while blocks.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn another_site_answers_when_one_is_away_or_not_the_leader() {
    let (first, second, third) = (standin().await, standin().await, standin().await);
    let away = standin().await;
    let mut options = options(&[&away, &first, &second, &third]);
    options.connect_timeout = Duration::from_secs(5);
    drop(away);
    let cluster = Cluster::new(options).unwrap();
    assert_eq!(
        cluster.connect().await.unwrap().connection().site(),
        &site(&first)
    );
    // The leader is named; the site in between is not asked.
    first.fault(
        "1+1",
        Fault::Say(format!("<NotLeader>{}:node3", third.address())),
    );
    assert_eq!(cluster.read("1+1").await.unwrap().integer().unwrap(), 2);
    assert_eq!(
        cluster.connect().await.unwrap().connection().site(),
        &site(&third)
    );
    assert_eq!(second.log().len(), 0, "{:?}", second.log());
    // A site that is not ready sends nobody anywhere: the next one is asked.
    third.fault("2+2", Fault::Say("<DataNodeNotReady>".into()));
    assert_eq!(cluster.read("2+2").await.unwrap().integer().unwrap(), 4);
    // A leader that the URL does not name gets no password.
    first.fault("3+3", Fault::Say("<NotLeader>192.0.2.1:8848".into()));
    second.fault("3+3", Fault::Say("<NotLeader>192.0.2.1:8848".into()));
    third.fault("3+3", Fault::Say("<NotLeader>192.0.2.1:8848".into()));
    let _ = cluster.read("3+3").await;
    let mut blocks = cluster
        .blocks("select * from t", 8192)
        .await
        .unwrap_err()
        .to_string();
    blocks.truncate(200);
    assert!(blocks.contains("the server says"), "{blocks}");
}

#[tokio::test]
async fn nobody_at_home_is_said_for_each_site() {
    let (first, second) = (standin().await, standin().await);
    let options = options(&[&first, &second]);
    let addresses = [first.address(), second.address()];
    drop((first, second));
    let error = Cluster::new(options).unwrap().connect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    for address in addresses {
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_the_callers_problem() {
    let standin = standin().await;
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    assert_eq!(cluster.read("1+1").await.unwrap().integer().unwrap(), 2);
    standin.fault("2+2", Fault::LoseBefore);
    assert_eq!(cluster.read("2+2").await.unwrap().integer().unwrap(), 4);
    // Lost on a fresh connection, it is.
    standin.fault("3+3", Fault::LoseBefore);
    standin.fault("3+3", Fault::LoseBefore);
    assert_eq!(
        cluster.read("3+3").await.unwrap_err().kind(),
        Kind::Unavailable
    );
}

struct Certificates {
    server: Arc<ServerConfig>,
    authority: tempfile::NamedTempFile,
    print: [u8; 32],
}

/// A certificate for 127.0.0.1, signed by itself.
fn certificates() -> Certificates {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), made.cert.pem()).unwrap();
    let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, made.cert.der());
    Certificates {
        server: Arc::new(server),
        authority,
        print: print.as_ref().try_into().unwrap(),
    }
}

#[tokio::test]
async fn tls_trusts_an_authority_or_a_fingerprint_and_nobody_else() {
    let (right, wrong) = (certificates(), certificates());
    let settings = Settings {
        tls: Some(Arc::clone(&right.server)),
        ..Settings::default()
    };
    let standin = StandIn::start(settings).await.unwrap();
    let trusts = [
        (Trust::Authority(right.authority.path().to_owned()), true),
        (Trust::Fingerprint(right.print), true),
        (Trust::Authority(wrong.authority.path().to_owned()), false),
        (Trust::Fingerprint(wrong.print), false),
    ];
    for (trust, works) in trusts {
        let mut options = options(&[&standin]);
        options.tls = Some(trust.clone());
        let cluster = Cluster::new(options).unwrap();
        match cluster.read("1+1").await {
            Ok(two) => {
                assert!(works, "{trust:?}");
                assert_eq!(two.integer().unwrap(), 2);
            }
            Err(error) => {
                assert!(!works, "{trust:?}: {error}");
                assert_eq!(error.kind(), Kind::Refused, "{error}");
            }
        }
    }
    // In plain text nothing is learnt, and nothing hangs.
    let mut options = options(&[&standin]);
    options.connect_timeout = Duration::from_secs(5);
    assert_eq!(
        Cluster::new(options)
            .unwrap()
            .connect()
            .await
            .unwrap_err()
            .kind(),
        Kind::Unavailable
    );
}

#[tokio::test]
async fn over_tls_plain_text_is_the_last_resort() {
    let certificates = certificates();
    let settings = Settings {
        tls: Some(Arc::clone(&certificates.server)),
        offers: Offers {
            scram: false,
            scram_user: false,
            rsa: false,
        },
        ..Settings::default()
    };
    let standin = StandIn::start(settings).await.unwrap();
    let mut options = options(&[&standin]);
    options.tls = Some(Trust::Fingerprint(certificates.print));
    Cluster::new(options).unwrap().connect().await.unwrap();
}

/// What the vendor's crate decodes and encodes; it ends with a panic at other types, and has no null in lists.
const KNOWN_TO_THE_CRATE: &[&str] = &[
    "bool",
    "char",
    "short",
    "int",
    "long",
    "date",
    "month",
    "time",
    "minute",
    "second",
    "datetime",
    "timestamp",
    "nanotime",
    "nanotimestamp",
    "float",
    "double",
    "symbol",
    "string",
    "datehour",
    "blob",
    "decimal32(2)",
    "decimal64(4)",
];

/// The vendor's own crate logs in, reads what our client has written, and writes what our client reads: each cell has gone through both encoders and both decoders.
#[tokio::test]
async fn rows_go_through_the_vendors_crate_and_come_back_as_they_were() {
    use dolphindb::client::ClientBuilder;
    let standin = standin().await;
    let sample = samples::table(1000).unwrap();
    let places: Vec<usize> = KNOWN_TO_THE_CRATE
        .iter()
        .map(|name| sample.schema().index_of(name).unwrap())
        .collect();
    let sample = sample.project(&places).unwrap();
    let cluster = Cluster::new(options(&[&standin])).unwrap();
    let mut lease = cluster.connect().await.unwrap();
    let connection = lease.connection();
    let like = Argument::Table(sample.slice(0, 0));
    connection.upload("sample", &like).await.unwrap();
    let make = "db = database(\"dfs://db\", VALUE, [1]); createTable(db, sample, `ours); createTable(db, sample, `theirs)";
    connection.script(make).await.unwrap();
    let insert = "tableInsert{loadTable(\"dfs://db\", \"ours\")}";
    let rows = Argument::Table(sample.clone());
    connection.call(insert, &[rows]).await.unwrap();

    let mut builder = ClientBuilder::new(standin.address().to_string());
    builder.with_auth(("admin", "wrong"));
    assert!(builder.connect().await.is_err());
    let mut builder = ClientBuilder::new(standin.address().to_string());
    builder.with_auth(("admin", "123456"));
    let mut client = builder.connect().await.unwrap();
    let two = client.run_script("1+1").await.unwrap().unwrap();
    assert_eq!(two.to_string(), "2");
    let asked = "select * from loadTable(\"dfs://db\", \"ours\")";
    let read = client.run_script(asked).await.unwrap().unwrap();
    let insert = "tableInsert{loadTable(\"dfs://db\", \"theirs\")}";
    let inserted = client.run_function(insert, &[read]).await.unwrap().unwrap();
    assert_eq!(inserted.to_string(), "1000");

    let asked = "select * from loadTable(\"dfs://db\", \"theirs\")";
    let back = cluster.read(asked).await.unwrap().into_table().unwrap();
    for (at, field) in sample.schema().fields().iter().enumerate() {
        let (given, got) = (sample.column(at), back.column(at));
        match strait_dolphindb::texts_of(given) {
            // Symbols are numbered anew.
            Ok(texts) => assert_eq!(
                strait_dolphindb::texts_of(got).unwrap(),
                texts,
                "{}",
                field.name()
            ),
            Err(_) => assert_eq!(given, got, "{}", field.name()),
        }
    }
}
