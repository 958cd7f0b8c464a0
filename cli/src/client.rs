//! The connection to an agent.

use std::time::Duration;

use strait_common::tls::Dialling;
use strait_common::{Error, config};
use strait_proto::v1::control_client::ControlClient;
use strait_proto::v1::jobs_client::JobsClient;
use tonic::transport::{Channel, Endpoint};

use crate::report::{Failure, Result};

/// A lazily opened connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    channel: Channel,
    tls: Dialling,
    pub(crate) url: String,
}

impl Connection {
    pub(crate) fn new(url: &str, tls: &Dialling) -> Result<Connection> {
        let wrong = || {
            Failure::from(Error::config(format!(
                "'{url}' is not the URL of an agent; write for example http://127.0.0.1:7401"
            )))
        };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
        if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
            return Err(wrong());
        }
        // Whoever names an authority does not mean to be heard by everybody.
        if endpoint.uri().scheme_str() == Some("http") && tls.ca.is_some() {
            return Err(Failure::from(Error::config(format!(
                "--ca is given, and {} would be spoken to in the clear; write https, or leave --ca out",
                config::without_secrets(url)
            ))));
        }
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let channel = tls.connect_lazily(endpoint, "--ca")?;
        Ok(Connection {
            channel,
            tls: tls.clone(),
            url: config::without_secrets(url),
        })
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }

    pub(crate) fn jobs(&self) -> JobsClient<Channel> {
        JobsClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }

    /// The agent at another URL, or this one if it is empty.
    pub(crate) fn at(&self, url: &str) -> Result<Connection> {
        match url {
            "" => Ok(self.clone()),
            url => Connection::new(url, &self.tls),
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }
}
