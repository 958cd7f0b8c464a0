//! How a user is made known: SCRAM-SHA-256, RSA, or plain text.
//!
//! The first that works ends it. A next one is tried only where the server does not know the one before, or not for this user: a wrong password is not sent a
//! second time in a weaker form.

use std::num::NonZeroU32;

use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use strait_common::{Error, Kind, OrError, Result};

use crate::connection::Connection;
use crate::encode::Argument;
use crate::errors::{Cause, Failure};
use crate::object::Object;
use crate::options::{Login, User};

/// Fewer rounds would make guessing too cheap; more would keep this client busy for whoever answers.
const ROUNDS: std::ops::RangeInclusive<i64> = 1000..=200_000;

/// Makes the user known on this connection.
///
/// # Errors
/// `Config` if the server refuses user and password, or knows no way of login that is allowed; `Corrupt` if the server cannot prove that it knows the user.
pub(crate) async fn login(
    connection: &mut Connection,
    user: &User,
    how: Login,
    private: bool,
) -> Result<()> {
    if matches!(how, Login::Auto | Login::Scram) {
        match scram(connection, user).await {
            Ok(()) => return Ok(()),
            Err(Failure::Server(error))
                if how == Login::Auto
                    && matches!(error.cause, Cause::UnknownFunction | Cause::NotByScram) => {}
            Err(failure) => return Err(Error::from(failure).context("login by SCRAM")),
        }
    }
    if matches!(how, Login::Auto | Login::Rsa) {
        match rsa(connection, user).await {
            Ok(()) => return Ok(()),
            Err(Failure::Server(error))
                if how == Login::Auto && private && error.cause == Cause::UnknownFunction => {}
            Err(Failure::Server(error))
                if how == Login::Auto && error.cause == Cause::UnknownFunction =>
            {
                return Err(Error::config(
                    "this server knows neither SCRAM nor RSA, and without TLS the password is not sent in plain text unless the URL says login=plain",
                ));
            }
            Err(failure) => return Err(Error::from(failure).context("login by RSA")),
        }
    }
    let password = user.password.reveal();
    let arguments = [
        user.name.as_str().into(),
        password.into(),
        Argument::Bool(false),
    ];
    let answer = connection.call("login", &arguments).await;
    accepted(answer).map_err(|failure| Error::from(failure).context("login"))
}

fn accepted(answer: Result<Object, Failure>) -> Result<(), Failure> {
    // Servers answer with nothing, or with true.
    match answer?.boolean() {
        Ok(false) => Err(unsent(Error::config(
            "the server does not take this user and password",
        ))),
        _ => Ok(()),
    }
}

/// What this client makes of the other's answer goes wrong without hurting the connection.
fn unsent(error: Error) -> Failure {
    Failure::Unsent(error)
}

async fn scram(connection: &mut Connection, user: &User) -> Result<(), Failure> {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce)
        .or_error(Kind::Internal, "random numbers")
        .map_err(unsent)?;
    let nonce = BASE64.encode(nonce);
    let arguments = [user.name.as_str().into(), nonce.as_str().into()];
    let answer = connection.call("scramClientFirst", &arguments).await?;
    let first = ServerFirst::read(answer, &nonce).map_err(unsent)?;
    let exchange = first.answer(user, &nonce);
    let arguments = [
        user.name.as_str().into(),
        first.nonce.as_str().into(),
        BASE64.encode(exchange.proof).as_str().into(),
    ];
    let answer = connection.call("scramClientFinal", &arguments).await?;
    exchange.check(&answer).map_err(unsent)
}

/// What the server answers first.
struct ServerFirst {
    salt: Vec<u8>,
    salt_text: String,
    rounds: NonZeroU32,
    nonce: String,
}

/// What is answered, and what must come back.
struct Exchange {
    proof: [u8; 32],
    server_key: hmac::Key,
    message: String,
}

impl ServerFirst {
    fn read(answer: Object, nonce: &str) -> Result<ServerFirst> {
        let items = answer.into_items()?;
        let [salt, rounds, combined] = items.as_slice() else {
            return Err(Error::corrupt(format!("SCRAM with {} parts", items.len())));
        };
        let salt_text = salt.text()?;
        let rounds = rounds.integer()?;
        let combined = combined.text()?;
        if !ROUNDS.contains(&rounds) {
            return Err(Error::refused(format!("SCRAM with {rounds} rounds")));
        }
        if !combined.starts_with(nonce) || combined.len() <= nonce.len() {
            return Err(Error::corrupt("SCRAM with a nonce that is not ours"));
        }
        let rounds = u32::try_from(rounds).ok().and_then(NonZeroU32::new);
        Ok(ServerFirst {
            salt: BASE64
                .decode(&salt_text)
                .or_error(Kind::Corrupt, "the salt of SCRAM")?,
            salt_text,
            rounds: rounds.ok_or_else(|| Error::corrupt("SCRAM without rounds"))?,
            nonce: combined,
        })
    }

    fn answer(&self, user: &User, nonce: &str) -> Exchange {
        let mut salted = [0; 32];
        let password = user.password.reveal().as_bytes();
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            self.rounds,
            &self.salt,
            password,
            &mut salted,
        );
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let combined = &self.nonce;
        let message = format!(
            "n={},r={nonce},r={combined},s={},i={},c=biws,r={combined}",
            user.name, self.salt_text, self.rounds
        );
        let stored = hmac::Key::new(hmac::HMAC_SHA256, stored.as_ref());
        let signature = hmac::sign(&stored, message.as_bytes());
        let mut proof = [0; 32];
        let pairs = client_key.as_ref().iter().zip(signature.as_ref());
        for (byte, (key, signed)) in proof.iter_mut().zip(pairs) {
            *byte = key ^ signed;
        }
        let server_key = hmac::sign(&salted, b"Server Key");
        Exchange {
            proof,
            server_key: hmac::Key::new(hmac::HMAC_SHA256, server_key.as_ref()),
            message,
        }
    }
}

impl Exchange {
    /// Whether the server knows the user too. Some servers say nothing, and have proved nothing.
    fn check(&self, answer: &Object) -> Result<()> {
        let text = match answer {
            Object::Nothing => return Ok(()),
            other => other.text()?,
        };
        if text.is_empty() {
            return Ok(());
        }
        let signature = BASE64
            .decode(text)
            .or_error(Kind::Corrupt, "the server's signature")?;
        hmac::verify(&self.server_key, self.message.as_bytes(), &signature)
            .map_err(|_| Error::corrupt("the server cannot prove that it knows this user"))
    }
}

async fn rsa(connection: &mut Connection, user: &User) -> Result<(), Failure> {
    let answer = connection.call("getDynamicPublicKey", &[]).await?;
    let key = answer
        .text()
        .and_then(|text| public_key(&text))
        .map_err(unsent)?;
    let name = encrypted(&key, &user.name).map_err(unsent)?;
    let password = encrypted(&key, user.password.reveal()).map_err(unsent)?;
    let arguments = [
        name.as_str().into(),
        password.as_str().into(),
        Argument::Bool(true),
    ];
    accepted(connection.call("login", &arguments).await)
}

fn public_key(pem: &str) -> Result<Pkcs1PublicEncryptingKey> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
        .or_error(Kind::Corrupt, "the server's public key")?;
    let key = PublicEncryptingKey::from_der(&key)
        .map_err(|error| Error::refused(format!("the server's public key: {error}")))?;
    Pkcs1PublicEncryptingKey::new(key).or_error(Kind::Refused, "the server's public key")
}

fn encrypted(key: &Pkcs1PublicEncryptingKey, text: &str) -> Result<String> {
    if text.len() > key.max_plaintext_size() {
        return Err(Error::config(format!(
            "a user name or password of more than {} bytes, which RSA cannot carry",
            key.max_plaintext_size()
        )));
    }
    let mut sealed = vec![0; key.ciphertext_size()];
    let sealed = key
        .encrypt(text.as_bytes(), &mut sealed)
        .or_error(Kind::Internal, "RSA")?;
    Ok(BASE64.encode(sealed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Secret;

    fn user() -> User {
        User {
            name: "user".to_owned(),
            password: Secret::new("pencil"),
        }
    }

    /// The example of RFC 7677, which this exchange follows.
    #[test]
    fn the_proof_is_that_of_the_standard() {
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        let first = ServerFirst {
            salt: BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(),
            salt_text: "W22ZaJ0SNY7soEsUEjb6gQ==".to_owned(),
            rounds: NonZeroU32::new(4096).unwrap(),
            nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned(),
        };
        let exchange = first.answer(&user(), nonce);
        assert_eq!(
            BASE64.encode(exchange.proof),
            "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let column = |text: &str| {
            let array = std::sync::Arc::new(arrow::array::StringArray::from(vec![text]));
            let kind = crate::types::ColumnType::plain(crate::types::Type::String);
            Object::Scalar(crate::object::Column { kind, array })
        };
        let right = column("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        exchange.check(&right).unwrap();
        let wrong = column("AAAATRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(exchange.check(&wrong).unwrap_err().kind(), Kind::Corrupt);
    }
}
