//! Fills lake A, through the engine's own sink.

use strait_common::cpu::CpuPool;
use strait_common::digest::{Digest, DigestId, digest};
use strait_common::engine::{
    Begun, Claim, Disposition, Division, DivisionKind, Level, Origin, Outcome, Partition, Receipt,
    Sink, Table, Version,
};
use strait_common::ids::{RunId, TableName};
use strait_common::key::{Cell, PartitionKey};
use strait_common::value::Value;
use strait_common::{Error, Result};

use super::ticks;

/// What is generated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) rows: u64,
    pub(crate) days: u32,
    pub(crate) seed: u64,
}

/// Creates the table and fills it; `progress` hears of every finished day.
pub(crate) async fn fill(
    sink: &dyn Sink,
    table: &TableName,
    size: Size,
    mut progress: impl FnMut(u32),
) -> Result<()> {
    let schema = ticks::schema();
    let division = Division {
        column: "trading_day".to_owned(),
        kind: DivisionKind::Value,
    };
    let wanted = Table {
        name: table.clone(),
        schema: std::sync::Arc::clone(&schema),
        divisions: vec![division],
        recipe: None,
    };
    sink.prepare(table, &wanted, false).await?;
    let claim = Claim {
        run: RunId::random(),
        table: table.clone(),
        agent: "strait demo".to_owned(),
        job: "generate".to_owned(),
        taken_at: 0,
    };
    let attachment = sink.attach(&claim).await?;
    let digest_id = DigestId::of(&schema)?;
    let cpu = CpuPool::default();
    for index in 0..size.days {
        let key = PartitionKey::new(vec![(
            "trading_day".to_owned(),
            Cell::Value(Value::Date(ticks::day(index))),
        )])?;
        let version = Version("generated".to_owned());
        let partition = Partition {
            key: key.clone(),
            rows: None,
            bytes: None,
            version: version.clone(),
            pin: String::new(),
            origin: Origin::default(),
        };
        let Begun::Writer(mut writer) = attachment
            .begin(&partition, Disposition::Append, None)
            .await?
        else {
            return Err(Error::internal("a new table has a partition already"));
        };
        let rows = size.rows / u64::from(size.days)
            + u64::from(u64::from(index) < size.rows % u64::from(size.days));
        let mut day = ticks::Day::new(size.seed, index, rows);
        let mut sum = Digest::default();
        loop {
            let (batch, again) = cpu
                .run(move || {
                    let batch = day
                        .next()?
                        .map(|batch| Ok::<_, Error>((digest(&batch)?, batch)))
                        .transpose()?;
                    Ok((batch, day))
                })
                .await?;
            day = again;
            let Some((batch_digest, batch)) = batch else {
                break;
            };
            sum = sum.plus(batch_digest);
            writer.append(batch).await?;
        }
        let receipt = Receipt {
            key,
            version,
            rows,
            digest: sum,
            digest_id: digest_id.clone(),
            level: Level::Received,
            selection: "generated".to_owned(),
            origin: Origin::default(),
        };
        writer.finish(receipt).await?;
        progress(index + 1);
    }
    attachment.complete(Outcome::Done).await
}
