//! What tests in other languages run.
//!
//! ```text
//! dolphindb-standin serve [ADDRESS [DENIED…]]    a stand-in until it is killed, where no user may call these functions; prints where it listens
//! dolphindb-standin write ADDRESS ROWS [compress] our client makes dfs://types/rows of every type and fills it
//! dolphindb-standin check ADDRESS ROWS [compress] our client reads it back, and fails unless it is as it was made
//! ```

use arrow::array::{Array, RecordBatch};
use strait_common::{Error, Result};
use strait_dolphindb::{Argument, Cluster, Options, Secret, Site, User, samples, texts_of};
use strait_dolphindb_standin::{Settings, StandIn};

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", rest @ ..] => {
            let address = rest.first().copied().unwrap_or("127.0.0.1:0");
            let denied = rest.iter().skip(1).map(|name| (*name).to_owned());
            let started = StandIn::start_at(Settings::default(), address).await;
            let standin =
                started.map_err(|error| Error::unavailable(address).with_source(error))?;
            standin.catalog().denied.extend(denied);
            println!("{}", standin.address());
            let ended = tokio::signal::ctrl_c().await;
            ended.map_err(|error| Error::internal("signals").with_source(error))
        }
        ["write", address, rows, how @ ..] => {
            let rows = samples::table(number(rows)?)?;
            write(&cluster(address, how)?, &rows).await
        }
        ["check", address, rows, how @ ..] => {
            let rows = samples::table(number(rows)?)?;
            check(&cluster(address, how)?, &rows).await
        }
        _ => Err(Error::config(
            "serve [ADDRESS [DENIED...]], write ADDRESS ROWS [compress], or check ADDRESS ROWS [compress]",
        )),
    }
}

fn number(text: &str) -> Result<usize> {
    text.parse()
        .map_err(|_| Error::config(format!("'{text}' is no number of rows")))
}

fn cluster(address: &str, how: &[&str]) -> Result<Cluster> {
    let (host, port) = address.split_once(':').unwrap_or((address, "8848"));
    let mut options = Options::of_site("", 0);
    options.sites = vec![Site {
        host: host.to_owned(),
        port: port
            .parse()
            .map_err(|_| Error::config(format!("'{port}' is no port")))?,
    }];
    options.user = Some(User {
        name: "admin".to_owned(),
        password: Secret::new("123456"),
    });
    options.compress = how.contains(&"compress");
    Cluster::new(options)
}

async fn write(cluster: &Cluster, rows: &RecordBatch) -> Result<()> {
    let mut lease = cluster.connect().await?;
    let connection = lease.connection();
    connection
        .upload("sample", &Argument::Table(rows.slice(0, 0)))
        .await?;
    let make = "db = database(\"dfs://types\", VALUE, [1]); createTable(db, sample, \"rows\")";
    connection.script(make).await?;
    let insert = "tableInsert{loadTable(\"dfs://types\", \"rows\")}";
    let inserted = connection
        .call(insert, &[Argument::Table(rows.clone())])
        .await?;
    let inserted = inserted.integer()?;
    if usize::try_from(inserted).ok() != Some(rows.num_rows()) {
        return Err(Error::corrupt(format!(
            "{inserted} of {} rows were inserted",
            rows.num_rows()
        )));
    }
    Ok(())
}

async fn check(cluster: &Cluster, rows: &RecordBatch) -> Result<()> {
    let mut blocks = cluster
        .blocks("select * from loadTable(\"dfs://types\", \"rows\")", 8192)
        .await?;
    let mut from = 0;
    while let Some(block) = blocks.next().await? {
        let expected = rows.slice(from, block.num_rows().min(rows.num_rows() - from));
        for (at, field) in expected.schema().fields().iter().enumerate() {
            let (given, got) = (expected.column(at), block.column(at));
            // Symbols are numbered anew in each block.
            let equal = match texts_of(given) {
                Ok(texts) => texts_of(got)? == texts,
                Err(_) => given == got,
            };
            if !equal
                || given.null_count() != got.null_count()
                || expected.schema() != block.schema()
            {
                return Err(Error::corrupt(format!(
                    "column {} from row {from} is {got:?}",
                    field.name()
                )));
            }
        }
        from += block.num_rows();
    }
    if from != rows.num_rows() {
        return Err(Error::corrupt(format!(
            "{from} of {} rows",
            rows.num_rows()
        )));
    }
    println!("{from} rows are as they were made");
    Ok(())
}
