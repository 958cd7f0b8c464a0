//! Bundles: a backup is carried as files and restored, nothing of it is believed that is not whole, and what has arrived is not carried again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use strait_bundle::{Bundle, Depth, Problem};
use strait_common::cpu::CpuPool;
use strait_common::engine::Receipt;
use strait_common::ids::TableName;
use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent, selectors};
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{self, Lakes, TABLE, label};

const DAYS: u32 = 6;
const ROWS: u64 = 300;

fn mirror() -> v1::Mode {
    v1::Mode {
        kind: v1::mode::Kind::Mirror.into(),
        ..v1::Mode::default()
    }
}

fn url(directory: &Path) -> String {
    format!("file://{}", directory.display())
}

fn table() -> TableName {
    TABLE.parse().expect("a table")
}

/// A file, the day whose rows it has, what is done to it, and how that is told.
type Damage<'a> = (PathBuf, Option<u32>, &'a dyn Fn(&Path), &'a str);

/// Both agents, and directories to carry.
struct World {
    lakes: Lakes,
    operator: Operator,
    hands: [Hand; 2],
    agents: (SinkAgent, SourceAgent),
}

impl World {
    async fn start() -> World {
        let lakes = Lakes::filled(DAYS, ROWS).await;
        let hands = [Hand::default(), Hand::default()];
        let sink = SinkAgent::start_with(&lakes, None, &hands[1], |_| {}).await;
        let source = SourceAgent::start_held(&lakes, &sink.url(), &hands[0], |_| {}).await;
        World {
            operator: source.operator(),
            agents: (sink, source),
            lakes,
            hands,
        }
    }

    fn bundle(&self) -> PathBuf {
        self.lakes.path("bundle")
    }

    /// The bundle as it is now, at another place.
    fn carry(&self, name: &str) -> PathBuf {
        let carried = self.lakes.path(name);
        copy(&self.bundle(), &carried);
        carried
    }

    async fn run(&self, selectors: v1::Selectors, mode: v1::Mode) -> (v1::Run, Vec<String>) {
        let run = self.operator.run_as(selectors, mode).await;
        let partitions = self.operator.partitions(&run.id).await;
        let copied = partitions
            .into_iter()
            .filter(|partition| partition.state == "done");
        (run, copied.map(|partition| partition.key).collect())
    }

    async fn back_up(&self) -> Vec<String> {
        let to_bundle = v1::Selectors {
            to: url(&self.bundle()),
            ..selectors()
        };
        let (run, copied) = self.run(to_bundle, mirror()).await;
        assert_eq!(run.status, "done", "{run:?}");
        copied
    }

    async fn restore(&self, from: &Path, mode: v1::Mode) -> (v1::Run, Vec<String>) {
        let from_bundle = v1::Selectors {
            from: url(from),
            ..selectors()
        };
        self.run(from_bundle, mode).await
    }

    async fn b(&self) -> lakes::Contents {
        self.lakes.contents(&self.lakes.b()).await
    }

    async fn a(&self) -> lakes::Contents {
        self.lakes.contents(&self.lakes.a()).await
    }
}

fn files(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(root).expect("below").to_owned());
            }
        }
    }
    found
}

fn copy_file(from: &Path, to: &Path, file: &Path) {
    let target = to.join(file);
    std::fs::create_dir_all(target.parent().expect("a parent")).expect("a directory");
    std::fs::copy(from.join(file), target).expect("a copy");
}

fn copy(from: &Path, to: &Path) {
    files(from)
        .iter()
        .for_each(|file| copy_file(from, to, file));
}

fn labels(days: impl IntoIterator<Item = u32>) -> Vec<String> {
    days.into_iter().map(label).collect()
}

async fn flaws(directory: &Path) -> Vec<(String, Option<String>, Problem)> {
    let checked = Bundle::at(directory, CpuPool::new(1))
        .check(&table(), Depth::Contents)
        .await;
    let flaws = checked.expect("it can be looked at").flaws.into_iter();
    flaws
        .map(|flaw| {
            (
                flaw.path,
                flaw.partition.map(|key| key.label()),
                flaw.problem,
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_grows_by_what_differs_and_b_becomes_what_a_was() {
    let world = World::start().await;
    assert_eq!(world.back_up().await, labels(0..DAYS));
    let first = files(&world.bundle());
    world
        .lakes
        .write(&world.lakes.a(), 2, ROWS..ROWS + 50)
        .await;
    assert_eq!(world.back_up().await, labels([2]));
    let second = files(&world.bundle());
    // What was carried in the first night is carried no more.
    let data = |files: &BTreeSet<PathBuf>| {
        files
            .iter()
            .filter(|file| file.extension().is_some_and(|e| e == "parquet"))
            .count()
    };
    assert_eq!((data(&first), data(&second)), (6, 7));
    assert!(first.is_subset(&second), "files have gone");
    assert!(world.back_up().await.is_empty());
    assert_eq!(
        Bundle::at(&world.bundle(), CpuPool::new(1))
            .numbers(&table())
            .expect("numbers"),
        [1, 2]
    );
    assert_eq!(flaws(&world.bundle()).await, []);

    let carried = world.carry("carried");
    let (run, copied) = world.restore(&carried, mirror()).await;
    assert_eq!(
        (run.status.as_str(), copied),
        ("done", labels(0..DAYS)),
        "{run:?}"
    );
    world.lakes.assert_equal().await;
    let (run, copied) = world.restore(&carried, mirror()).await;
    let progress = run.progress.expect("progress");
    assert_eq!(
        (
            copied.len(),
            progress.partitions_already,
            progress.raw_bytes
        ),
        (0, u64::from(DAYS), 0)
    );
    // Over the link nothing is left to do, and nothing need be read to know it.
    world.hands.iter().for_each(|hand| drop(hand.take_reads()));
    let (run, copied) = world.run(selectors(), mirror()).await;
    let read = world.hands.each_ref().map(Hand::take_reads);
    assert_eq!(
        (run.status.as_str(), copied.len(), read),
        ("done", 0, [vec![], vec![]]),
        "{run:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_is_named_and_nothing_is_restored() {
    let world = World::start().await;
    world.back_up().await;
    let whole = world.bundle();
    let of_day = |day: u32| {
        let of_day = world.lakes.files(&whole, day);
        of_day[0].strip_prefix(&whole).expect("below").to_owned()
    };
    let log = Path::new("db/ticks/_delta_log/00000000000000000001.json").to_owned();
    let cut = |path: &Path| {
        let bytes = std::fs::read(path).expect("a file");
        std::fs::write(path, &bytes[..bytes.len() / 2]).expect("it is written");
    };
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("it is written");
    };
    let remove = |path: &Path| std::fs::remove_file(path).expect("it is removed");
    let damage: [Damage<'_>; 5] = [
        (of_day(1), Some(1), &remove, "missing"),
        (of_day(2), Some(2), &cut, "cut short"),
        (of_day(3), Some(3), &flip, "its content has changed"),
        (log.clone(), None, &flip, "its content has changed"),
        (
            Path::new("db/ticks/_bundle/000001.jsonl").to_owned(),
            None,
            &cut,
            "cut short",
        ),
    ];
    for (at, (file, day, spoil, problem)) in damage.into_iter().enumerate() {
        let carried = world.carry(&format!("carried {at}"));
        spoil(&carried.join(&file));
        let found = flaws(&carried).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].1, day.map(label), "{found:?}");
        assert!(found[0].2.to_string().contains(problem), "{found:?}");
        let from_bundle = v1::Selectors {
            from: url(&carried),
            ..selectors()
        };
        let request = v1::StartRunRequest {
            selectors: Some(from_bundle),
            mode: Some(mirror()),
            ..v1::StartRunRequest::default()
        };
        let begun = world.operator.control.clone().start_run(request).await;
        let why = match begun {
            // What cannot even be planned.
            Err(status) => status.message().to_owned(),
            Ok(reply) => {
                let run = world
                    .operator
                    .ended(&reply.into_inner().run.expect("a run").id)
                    .await;
                assert_eq!(
                    (run.status.as_str(), run.kind.as_str()),
                    ("failed", "corrupt"),
                    "{run:?}"
                );
                let named = file
                    .strip_prefix("db/ticks")
                    .expect("below")
                    .to_string_lossy()
                    .into_owned();
                assert!(
                    run.message.contains(&named) && run.message.contains(problem),
                    "{run:?}"
                );
                if let Some(day) = day {
                    assert!(run.message.contains(&label(day)), "{run:?}");
                }
                // Copied again, the bundle is whole, and the run goes on.
                copy_file(&whole, &carried, &file);
                assert!(world.b().await.is_empty(), "rows were restored");
                if at == 0 {
                    continue;
                }
                run.message
            }
        };
        assert!(why.contains(problem), "{why}");
        assert!(world.b().await.is_empty(), "rows were restored");
    }
    let runs = world
        .operator
        .control
        .clone()
        .list_runs(v1::ListRunsRequest::default())
        .await;
    let runs = runs.expect("runs").into_inner().runs;
    let failed = runs.iter().find(|run| {
        run.selectors
            .as_ref()
            .is_some_and(|s| s.from.contains("carried 0"))
    });
    let id = failed.expect("the first").id.clone();
    world.operator.resume(&id).await;
    let run = world.operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    world.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_bundle_does_not_go_over_a_newer_one_or_over_what_came_by_the_link() {
    let world = World::start().await;
    world.back_up().await;
    let old = world.carry("old");
    world
        .lakes
        .write(&world.lakes.a(), 4, ROWS..ROWS + 10)
        .await;
    world.back_up().await;
    let new = world.carry("new");
    let was_old = world.lakes.contents(&old).await;
    world.restore(&new, mirror()).await;
    world.lakes.assert_equal().await;
    let refused = async |from: &Path, day: u32| {
        let before = world.b().await;
        let (run, copied) = world.restore(from, mirror()).await;
        assert_eq!(
            (run.status.as_str(), copied.len()),
            ("partial", 0),
            "{run:?}"
        );
        let partitions = world.operator.partitions(&run.id).await;
        let failed: Vec<_> = partitions
            .iter()
            .filter(|partition| partition.state == "failed")
            .collect();
        assert_eq!(
            (
                failed.len(),
                failed[0].key.as_str(),
                failed[0].kind.as_str()
            ),
            (1, label(day).as_str(), "refused")
        );
        assert!(
            failed[0].message.contains("it would go back")
                && failed[0].message.contains("--mode replace"),
            "{failed:?}"
        );
        assert_eq!(world.b().await, before);
    };
    refused(&old, 4).await;
    // What the link brings is newer than both.
    world
        .lakes
        .write(&world.lakes.a(), 5, ROWS..ROWS + 10)
        .await;
    let (run, copied) = world.run(selectors(), mirror()).await;
    assert_eq!(
        (run.status.as_str(), copied),
        ("done", labels([5])),
        "{run:?}"
    );
    refused(&new, 5).await;
    let replace = v1::Mode {
        kind: v1::mode::Kind::Replace.into(),
        ..v1::Mode::default()
    };
    let (run, _) = world.restore(&old, replace).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_eq!(world.b().await, was_old);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_begins_at_what_has_arrived() {
    let world = World::start().await;
    world.back_up().await;
    let carried = world.carry("carried");
    let some = v1::Selectors {
        from: url(&carried),
        partitions: vec![label(0), format!("*{}", &label(3)[4..])],
        ..selectors()
    };
    let (run, copied) = world.run(some.clone(), mirror()).await;
    assert_eq!(
        (run.status.as_str(), copied),
        ("done", labels([0, 3])),
        "{run:?}"
    );
    // The way back: what of it has arrived.
    let request = v1::ListReceiptsRequest {
        selectors: Some(v1::Selectors {
            from: url(&carried),
            ..selectors()
        }),
    };
    let pages = world.operator.control.clone().list_receipts(request).await;
    let mut pages = pages.expect("receipts").into_inner();
    let mut text = String::new();
    let mut arrived = Vec::new();
    while let Some(page) = pages.message().await.expect("a page") {
        for receipt in page.receipts {
            let receipt = Receipt::try_from(receipt).expect("a receipt");
            arrived.push(receipt.key.label());
            text += &(serde_json::to_string(&receipt).expect("JSON") + "\n");
        }
    }
    assert_eq!(arrived, labels([0, 3]));
    let receipts = world.lakes.path("receipts.jsonl");
    std::fs::write(&receipts, text).expect("it is written");
    // A goes on; the next bundle has what is new and what had not arrived.
    world.lakes.write(&world.lakes.a(), 3, ROWS..ROWS + 7).await;
    let increment = world.lakes.path("increment");
    let to_increment = v1::Selectors {
        to: url(&increment),
        receipts: receipts.display().to_string(),
        ..selectors()
    };
    let (run, copied) = world.run(to_increment, mirror()).await;
    assert_eq!(
        (run.status.as_str(), copied),
        ("done", labels(1..DAYS)),
        "{run:?}"
    );
    let (run, copied) = world.restore(&increment, mirror()).await;
    assert_eq!(
        (run.status.as_str(), copied),
        ("done", labels(1..DAYS)),
        "{run:?}"
    );
    world.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_arrive_in_any_order_and_count_when_their_manifest_is_there() {
    let world = World::start().await;
    world.back_up().await;
    let carried = world.carry("carried");
    let was = world.a().await;
    world.lakes.write(&world.lakes.a(), 1, ROWS..ROWS + 5).await;
    world.lakes.remove_as_a_stranger(&world.lakes.a(), 2);
    world.lakes.write(&world.lakes.a(), 2, 0..20).await;
    assert_eq!(world.back_up().await, labels([1, 2]));
    // All that is new but the manifest and one file of rows: the log is ahead of what may be believed.
    let new: Vec<_> = files(&world.bundle())
        .difference(&files(&carried))
        .cloned()
        .collect();
    let is_manifest = |file: &Path| file.to_string_lossy().contains("_bundle");
    let last = new
        .iter()
        .rfind(|file| file.extension().is_some_and(|e| e == "parquet"))
        .expect("rows");
    let early = new
        .iter()
        .filter(|file| !is_manifest(file) && *file != last);
    early.for_each(|file| copy_file(&world.bundle(), &carried, file));
    let (run, _) = world.restore(&carried, mirror()).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_eq!(world.b().await, was);
    // Then the manifest, and the rows last.
    let manifest = new
        .iter()
        .find(|file| is_manifest(file))
        .expect("a manifest");
    copy_file(&world.bundle(), &carried, manifest);
    let (run, _) = world.restore(&carried, mirror()).await;
    assert_eq!(
        (run.status.as_str(), run.kind.as_str()),
        ("failed", "corrupt"),
        "{run:?}"
    );
    assert_eq!(world.b().await, was);
    copy_file(&world.bundle(), &carried, last);
    world.operator.resume(&run.id).await;
    let run = world.operator.ended(&run.id).await;
    assert_eq!(run.status, "done", "{run:?}");
    world.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_agent_dies_goes_on_and_has_no_manifest_before_its_end() {
    let world = World::start().await;
    let to_bundle = v1::Selectors {
        to: url(&world.bundle()),
        ..selectors()
    };
    world.hands[0].hold(Act::Read, &label(3));
    let request = v1::StartRunRequest {
        selectors: Some(to_bundle),
        mode: Some(mirror()),
        ..v1::StartRunRequest::default()
    };
    let id = world.operator.start_as(request).await;
    world.hands[0].is_holding(&label(3)).await;
    let (sink, source) = world.agents;
    source.crash().await;
    assert!(
        Bundle::at(&world.lakes.path("bundle"), CpuPool::new(1))
            .tables()
            .expect("tables")
            .is_empty()
    );
    let source = SourceAgent::start(&world.lakes, &sink.url()).await;
    let operator = source.operator();
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert!(run.attempts > 1, "{run:?}");
    let bundle = world.lakes.path("bundle");
    assert_eq!(flaws(&bundle).await, []);
    assert_eq!(
        world.lakes.contents(&bundle).await,
        world.lakes.contents(&world.lakes.a()).await
    );
}
