//! Who may write: epochs and claims.

use strait_common::Kind;
use strait_common::engine::{Confirmed, Disposition, Outcome, PositionState};

use super::{
    World, append, append_durably, attach, begin_append, copy, ensure_committed, position,
    positions, three_parts,
};
use crate::data;
use crate::{At, Check, Harness, Process, ensure, ensure_kind};

/// Through restarts, and from run to run.
pub async fn each_attempt_has_a_higher_epoch(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let mut before = None;
    for run in [1, 2] {
        for _ in 0..3 {
            let attachment = world.attach(run).await?;
            let epoch = attachment.epoch();
            ensure!(
                Some(epoch) > before,
                "run {run} got epoch {epoch} after {before:?}"
            );
            before = Some(epoch);
            drop(attachment);
            world.restart().await?;
        }
        let attachment = world.attach(run).await?;
        before = Some(attachment.epoch());
        attachment.complete(Outcome::Done).await.at("complete")?;
    }
    Ok(())
}

/// In one process.
pub async fn every_act_of_an_older_attempt_is_fenced(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    fenced(harness, &world, &world.process).await
}

/// Across processes, which is what a number in memory cannot do.
pub async fn every_act_of_an_older_attempt_is_fenced_from_another_process(
    harness: &dyn Harness,
) -> Check {
    let world = World::new(harness).await?;
    let second = world.durable.open().await?;
    fenced(harness, &world, &second).await
}

async fn fenced(harness: &dyn Harness, world: &World, second: &Process) -> Check {
    let [a, b, c] = three_parts(harness)?;
    let old_part = harness.part(Some(19_999), Some("IBM"), 1..5)?;
    world
        .copied(9, std::slice::from_ref(&old_part), Disposition::Append)
        .await?;
    let older = world.attach(1).await?;
    let mut to_checkpoint = begin_append(older.as_ref(), &a).await?;
    append(&mut to_checkpoint, &a, 0, 5).await?;
    let mut to_finish = begin_append(older.as_ref(), &b).await?;
    append_durably(&mut to_finish, &b, 0, 3).await?;
    append(&mut to_finish, &b, 3, 7).await?;

    let newer = attach(second, &data::claim(1)?)
        .await
        .at("the newer attempt")?;
    ensure!(
        newer.epoch() > older.epoch(),
        "epoch {} after {}",
        newer.epoch(),
        older.epoch()
    );
    let checkpoint = to_checkpoint.checkpoint(a.mark(5)?).await;
    ensure_kind(checkpoint, Kind::Fenced, "checkpoint of an older attempt")?;
    let finished = to_finish.finish(b.receipt()?).await;
    ensure_kind(finished, Kind::Fenced, "finish of an older attempt")?;
    let begun = older.begin(&c.partition(), Disposition::Append, None).await;
    ensure_kind(begun, Kind::Fenced, "begin of an older attempt")?;
    let dropped = older.drop_partition(&old_part.key).await;
    ensure_kind(dropped, Kind::Fenced, "drop_partition of an older attempt")?;
    let confirmed = Confirmed {
        receipt: old_part.receipt()?,
        version: world.listed().await?[0].version.clone(),
    };
    let confirmed = older.confirm(&[confirmed]).await;
    ensure_kind(confirmed, Kind::Fenced, "confirm of an older attempt")?;
    let completed = older.complete(Outcome::Abandoned).await;
    ensure_kind(completed, Kind::Fenced, "complete of an older attempt")?;

    let seeded = std::slice::from_ref(&old_part);
    world
        .ensure_visible(seeded, "after the fenced acts")
        .await?;
    let held = world
        .process
        .store
        .sink
        .claim(&world.table)
        .await
        .at("claim")?;
    ensure!(held.is_some(), "a fenced complete closed the claim");
    for part in [&a, &b, &c] {
        copy(newer.as_ref(), part, Disposition::Append)
            .await
            .at("the newer attempt")?;
    }
    let all = [old_part, a, b, c];
    world.ensure_visible(&all, "after the newer attempt").await
}

/// And allowed once the claim is closed, however it was.
pub async fn another_run_is_refused_while_a_claim_is_open(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    for (run, outcome) in [
        (1, Outcome::Done),
        (2, Outcome::Abandoned),
        (3, Outcome::Partial),
    ] {
        let owner = data::claim(run)?;
        let attachment = attach(&world.process, &owner).await?;
        let other = data::claim(run + 1)?;
        for process in [&world.process, &world.durable.open().await?] {
            let attached = process.store.sink.attach(&other).await;
            let error = ensure_kind(attached, Kind::Refused, "attach of another run")?;
            ensure!(
                error.to_string().contains(&owner.run.short()),
                "the error does not name run {}: {error}",
                owner.run
            );
        }
        attachment.complete(outcome).await.at("complete")?;
        let held = world
            .process
            .store
            .sink
            .claim(&owner.table)
            .await
            .at("claim")?;
        ensure!(held.is_none(), "after complete the claim is {held:?}");
    }
    world.attach(4).await?;
    Ok(())
}

/// To be refused must not raise the epoch.
pub async fn a_refused_attempt_disturbs_nothing(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append_durably(&mut writer, &part, 0, 5).await?;
    let mut other_job = data::claim(1)?;
    other_job.job.push(' ');
    for claim in [data::claim(2)?, other_job] {
        let attached = world.process.store.sink.attach(&claim).await;
        ensure_kind(attached, Kind::Refused, "attach of another run or job")?;
    }
    append(&mut writer, &part, 5, 10).await?;
    super::finish(writer, &part).await?;
    attachment.complete(Outcome::Done).await.at("complete")?;
    world.ensure_visible(&[part], "after all").await
}

/// A run's job never changes.
pub async fn the_same_run_with_another_job_is_refused(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let attachment = world.attach(1).await?;
    drop(attachment);
    world.restart().await?;
    let mut claim = data::claim(1)?;
    claim.job = "{\"job\":\"another\"}".to_owned();
    let attached = world.process.store.sink.attach(&claim).await;
    ensure_kind(attached, Kind::Refused, "attach with another job")?;
    world.attach(1).await?;
    Ok(())
}

/// Later attempts take it over and keep its age; any process can ask for it.
pub async fn the_claim_is_what_was_taken_first(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let none = world
        .process
        .store
        .sink
        .claim(&world.table)
        .await
        .at("claim")?;
    ensure!(none.is_none(), "a new table has a claim: {none:?}");
    let taken = data::claim(1)?;
    attach(&world.process, &taken).await?;
    world.restart().await?;
    let mut later = taken.clone();
    later.taken_at += 1000;
    attach(&world.process, &later).await?;
    world.restart().await?;
    let held = world
        .process
        .store
        .sink
        .claim(&world.table)
        .await
        .at("claim")?;
    ensure!(held.as_ref() == Some(&taken), "the claim is {held:?}");
    Ok(())
}

/// Its answer may be lost, so it is repeated: by the same attempt, and by a later one.
pub async fn completing_twice_is_harmless(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    copy(attachment.as_ref(), &part, Disposition::Append).await?;
    attachment.complete(Outcome::Done).await.at("complete")?;
    attachment
        .complete(Outcome::Done)
        .await
        .at("complete again")?;
    world.restart().await?;
    let attachment = world.attach(1).await.at("the same run after complete")?;
    let held = position(attachment.as_ref(), &part).await?;
    ensure_committed(held.as_ref(), &part, 1)?;
    attachment
        .complete(Outcome::Done)
        .await
        .at("complete after a restart")?;
    let held = world
        .process
        .store
        .sink
        .claim(&world.table)
        .await
        .at("claim")?;
    ensure!(held.is_none(), "after complete the claim is {held:?}");
    world
        .ensure_visible(&[part], "after completing three times")
        .await
}

/// What is committed stays.
pub async fn an_abandoned_run_leaves_nothing_staged(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [done, half, _] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    copy(attachment.as_ref(), &done, Disposition::Append).await?;
    let mut writer = begin_append(attachment.as_ref(), &half).await?;
    append_durably(&mut writer, &half, 0, 5).await?;
    drop((writer, attachment));
    world.restart().await?;
    let attachment = world.attach(1).await?;
    attachment
        .complete(Outcome::Abandoned)
        .await
        .at("abandon")?;
    world
        .ensure_visible(std::slice::from_ref(&done), "after abandon")
        .await?;
    let attachment = world.attach(1).await?;
    let held = positions(attachment.as_ref()).await?;
    let staged = held.iter().any(|held| held.state == PositionState::Staged);
    ensure!(!staged, "an abandoned run has left {held:?}");
    Ok(())
}

/// So it can leave out what is there already, and knows who put it there.
pub async fn a_later_run_sees_what_earlier_ones_committed(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [a, b, c] = three_parts(harness)?;
    let first = [a.clone(), b.clone()];
    world.copied(1, &first, Disposition::Append).await?;
    let newer = b.changed("v2", 400..404);
    world
        .copied(2, std::slice::from_ref(&newer), Disposition::Append)
        .await?;
    world.restart().await?;
    let attachment = world.attach(3).await?;
    let held = position(attachment.as_ref(), &a).await?;
    ensure_committed(held.as_ref(), &a, 1)?;
    // Both runs' rows are there.
    let mut held = positions(attachment.as_ref()).await?;
    held.retain(|position| position.key == b.key);
    ensure!(held.len() == 2, "the positions are {held:?}");
    ensure_committed(held.first(), &b, 1)?;
    ensure_committed(held.last(), &newer, 2)?;
    let held = position(attachment.as_ref(), &c).await?;
    ensure!(
        held.is_none(),
        "a partition of no run has a position: {held:?}"
    );
    // Another run's receipt does not keep this one from writing.
    let newest = a.changed("v3", 500..503);
    copy(attachment.as_ref(), &newest, Disposition::Append).await?;
    world
        .ensure_visible(&[a, b, newer, newest], "after three runs")
        .await
}

/// Nobody but the run itself can know what its staged rows mean.
pub async fn a_later_run_does_not_see_what_an_earlier_one_staged(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append_durably(&mut writer, &part, 0, 5).await?;
    drop(writer);
    attachment.complete(Outcome::Partial).await.at("complete")?;
    world.restart().await?;
    let attachment = world.attach(2).await?;
    let held = positions(attachment.as_ref()).await?;
    ensure!(
        held.is_empty(),
        "another run's staged rows are positions: {held:?}"
    );
    copy(attachment.as_ref(), &part, Disposition::Append).await?;
    world.ensure_visible(&[part], "after the second run").await
}

/// What it still has under way must not be found by a later attempt, which another run may have come before.
pub async fn an_attempt_that_has_ended_its_claim_writes_no_more(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [a, b, c] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut to_checkpoint = begin_append(attachment.as_ref(), &a).await?;
    append_durably(&mut to_checkpoint, &a, 0, 2).await?;
    append(&mut to_checkpoint, &a, 2, 5).await?;
    let mut to_finish = begin_append(attachment.as_ref(), &b).await?;
    append_durably(&mut to_finish, &b, 0, 3).await?;
    append(&mut to_finish, &b, 3, 7).await?;
    attachment.complete(Outcome::Partial).await.at("complete")?;

    let checkpoint = to_checkpoint.checkpoint(a.mark(5)?).await;
    ensure_kind(checkpoint, Kind::Fenced, "checkpoint after complete")?;
    let finished = to_finish.finish(b.receipt()?).await;
    ensure_kind(finished, Kind::Fenced, "finish after complete")?;
    let begun = attachment
        .begin(&c.partition(), Disposition::Append, None)
        .await;
    ensure_kind(begun, Kind::Fenced, "begin after complete")?;
    world.ensure_visible(&[], "after the late acts").await?;

    world
        .copied(2, std::slice::from_ref(&a), Disposition::Append)
        .await?;
    world.restart().await?;
    let attachment = world.attach(1).await.at("the first run again")?;
    let held = positions(attachment.as_ref()).await?;
    let staged = held.iter().any(|held| held.state == PositionState::Staged);
    ensure!(!staged, "late acts have left {held:?}");
    world.ensure_visible(&[a], "in the end").await
}
