//! What operators ask of jobs.

use std::sync::Arc;

use strait_common::Result;
use strait_proto::v1;
use strait_proto::v1::jobs_server::Jobs;
use tonic::{Request, Response, Status};

use crate::book::Start;
use crate::desk::Desk;

/// Starts of a job that are listed when no limit is given, and at most.
const LISTED: u32 = 20;
const LISTED_MAX: u32 = 10_000;

/// The service.
#[derive(Clone, Debug)]
pub struct Service(pub Arc<Desk>);

#[tonic::async_trait]
impl Jobs for Service {
    async fn apply_job(
        &self,
        request: Request<v1::ApplyJobRequest>,
    ) -> Result<Response<v1::ApplyJobReply>, Status> {
        let (name, applied) = self.0.apply(&request.into_inner().file).await?;
        Ok(Response::new(v1::ApplyJobReply {
            name,
            what: applied.name().to_owned(),
        }))
    }

    async fn list_jobs(
        &self,
        _: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsReply>, Status> {
        let jobs = self.0.list().await;
        Ok(Response::new(v1::ListJobsReply { jobs }))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobReply>, Status> {
        let request = request.into_inner();
        let limit = match request.limit {
            0 => LISTED,
            limit => limit.min(LISTED_MAX),
        };
        let (job, starts) = self.0.look_up(&request.name, limit).await?;
        Ok(Response::new(v1::GetJobReply {
            job: Some(job),
            starts: starts.iter().map(start_message).collect(),
        }))
    }

    async fn run_job(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::RunJobReply>, Status> {
        let group = self.0.run(&request.into_inner().name).await?.to_string();
        Ok(Response::new(v1::RunJobReply { group }))
    }

    async fn enable_job(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::JobReply>, Status> {
        self.0.enable(&request.into_inner().name, true).await?;
        Ok(Response::new(v1::JobReply {}))
    }

    async fn disable_job(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::JobReply>, Status> {
        self.0.enable(&request.into_inner().name, false).await?;
        Ok(Response::new(v1::JobReply {}))
    }

    async fn remove_job(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::JobReply>, Status> {
        self.0.remove(&request.into_inner().name).await?;
        Ok(Response::new(v1::JobReply {}))
    }
}

/// A start as operators see it.
fn start_message(start: &Start) -> v1::JobStart {
    v1::JobStart {
        at: start.at,
        manual: start.manual,
        state: start.state.name().to_owned(),
        group: start
            .group
            .map(|group| group.to_string())
            .unwrap_or_default(),
        tries: start.tries,
        ready_at: start.ready_at,
        began_at: start.began_at,
        ended_at: start.ended_at,
        message: start.message.clone(),
    }
}
