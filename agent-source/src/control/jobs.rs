//! What operators ask of jobs.

use strait_common::Result;
use strait_proto::v1;

use super::Operators;
use crate::schedule::desk;

/// Starts of a job that are listed when no limit is given, and at most.
const LISTED: u32 = 20;
const LISTED_MAX: u32 = 10_000;

impl Operators {
    pub(super) async fn do_apply_job(&self, file: &str) -> Result<v1::ApplyJobReply> {
        let (name, applied) = desk::apply(&self.0, file).await?;
        Ok(v1::ApplyJobReply {
            name,
            what: applied.name().to_owned(),
        })
    }

    pub(super) async fn do_list_jobs(&self) -> v1::ListJobsReply {
        let now = self.0.now_s();
        let jobs = self.0.desk.jobs().await;
        v1::ListJobsReply {
            jobs: jobs.values().map(|kept| desk::message(kept, now)).collect(),
        }
    }

    pub(super) async fn do_get_job(&self, request: v1::GetJobRequest) -> Result<v1::GetJobReply> {
        let limit = match request.limit {
            0 => LISTED,
            limit => limit.min(LISTED_MAX),
        };
        let (job, starts) = desk::look_up(&self.0, &request.name, limit).await?;
        Ok(v1::GetJobReply {
            job: Some(job),
            starts: starts.iter().map(desk::start_message).collect(),
        })
    }

    pub(super) async fn do_run_job(&self, name: &str) -> Result<v1::RunJobReply> {
        let group = desk::run(&self.0, name).await?.to_string();
        Ok(v1::RunJobReply { group })
    }
}
