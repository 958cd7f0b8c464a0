//! How the stand-in knows a user: in plain text, by RSA and by SCRAM, each as the real server does it, and each can be switched off.

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use strait_dolphindb::Object;

use crate::catalog::Said;
use crate::cell::{Cell, scalar};

/// Which ways of login a server offers.
#[derive(Clone, Copy, Debug)]
pub struct Offers {
    /// SCRAM-SHA-256.
    pub scram: bool,
    /// Whether the user was made for SCRAM. Other users of a server that knows it are refused it.
    pub scram_user: bool,
    /// RSA.
    pub rsa: bool,
}

/// What a server knows of its users.
#[derive(Debug)]
pub(crate) struct Accounts {
    user: String,
    password: String,
    offers: Offers,
    key: Option<PrivateDecryptingKey>,
}

/// A session's way to a login.
#[derive(Debug)]
pub(crate) struct Logins {
    accounts: Arc<Accounts>,
    exchange: Option<Exchange>,
    /// The user that has logged in.
    pub user: Option<String>,
    /// How: `plain`, `rsa` or `scram`.
    pub way: &'static str,
}

#[derive(Debug)]
struct Exchange {
    message: String,
    salted: Vec<u8>,
    nonce: String,
}

const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");
const WRONG: &str = "The user name or password is incorrect.";
const OTHER_MODE: &str = "sha256 authMode doesn't support scram authMode";

impl Accounts {
    /// One user.
    ///
    /// # Errors
    /// If no key can be made.
    pub(crate) fn of(user: &str, password: &str, offers: Offers) -> Said<Accounts> {
        let key = if offers.rsa {
            Some(
                PrivateDecryptingKey::generate(KeySize::Rsa2048)
                    .map_err(|_| "no key of RSA".to_owned())?,
            )
        } else {
            None
        };
        Ok(Accounts {
            user: user.to_owned(),
            password: password.to_owned(),
            offers,
            key,
        })
    }
}

impl Logins {
    /// A guest.
    pub(crate) fn new(accounts: Arc<Accounts>) -> Logins {
        Logins {
            accounts,
            exchange: None,
            user: None,
            way: "",
        }
    }

    /// The functions of login.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) fn call(&mut self, name: &str, arguments: &[String]) -> Said<Object> {
        let unknown = || format!("Can't recognize function name {name}");
        let text = |text: String| scalar(&Cell::Text(text));
        match (name, arguments) {
            ("login", [user, password]) => self
                .plain(user, password, "plain")
                .map(|()| scalar(&Cell::Bool(true))),
            ("login", [user, password, encrypted]) => {
                let mut way = "plain";
                let (mut user, mut password) = (user.clone(), password.clone());
                if !encrypted.is_empty() {
                    way = "rsa";
                    user = self.opened(&user)?;
                    password = self.opened(&password)?;
                }
                self.plain(&user, &password, way)
                    .map(|()| scalar(&Cell::Bool(true)))
            }
            ("getDynamicPublicKey", []) => {
                let key = self.accounts.key.as_ref().ok_or_else(unknown)?;
                let der = AsDer::<PublicKeyX509Der<'_>>::as_der(&key.public_key())
                    .map_err(|error| error.to_string())?;
                let encoded = BASE64.encode(der.as_ref());
                let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
                for line in encoded.as_bytes().chunks(64) {
                    pem.push_str(&String::from_utf8_lossy(line));
                    pem.push('\n');
                }
                Ok(text(pem + "-----END PUBLIC KEY-----\n"))
            }
            ("scramClientFirst", _)
                if self.accounts.offers.scram && !self.accounts.offers.scram_user =>
            {
                Err(OTHER_MODE.into())
            }
            ("scramClientFirst", [user, nonce]) if self.accounts.offers.scram => {
                self.first(user, nonce)
            }
            ("scramClientFinal", [user, _, proof]) if self.accounts.offers.scram => {
                let signature = self.last(user, proof)?;
                Ok(text(signature))
            }
            _ => Err(unknown()),
        }
    }

    fn plain(&mut self, user: &str, password: &str, way: &'static str) -> Said<()> {
        if user != self.accounts.user || password != self.accounts.password {
            return Err(WRONG.into());
        }
        self.user = Some(user.to_owned());
        self.way = way;
        Ok(())
    }

    fn opened(&self, sealed: &str) -> Said<String> {
        let key = self.accounts.key.clone().ok_or("no key was asked for")?;
        let key = Pkcs1PrivateDecryptingKey::new(key).map_err(|error| error.to_string())?;
        let sealed = BASE64.decode(sealed).map_err(|error| error.to_string())?;
        let mut opened = vec![0; key.min_output_size()];
        let opened = key
            .decrypt(&sealed, &mut opened)
            .map_err(|_| WRONG.to_owned())?;
        Ok(String::from_utf8_lossy(opened).into_owned())
    }

    fn first(&mut self, user: &str, nonce: &str) -> Said<Object> {
        let mut random = [0; 32];
        rand::fill(&mut random).map_err(|error| error.to_string())?;
        let salt = BASE64.encode(&random[..16]);
        let combined = format!("{nonce}{}", BASE64.encode(&random[16..28]));
        let mut salted = vec![0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            ROUNDS,
            &random[..16],
            self.accounts.password.as_bytes(),
            &mut salted,
        );
        self.exchange = Some(Exchange {
            message: format!(
                "n={user},r={nonce},r={combined},s={salt},i={ROUNDS},c=biws,r={combined}"
            ),
            salted,
            nonce: combined.clone(),
        });
        let text = |text: String| scalar(&Cell::Text(text));
        Ok(Object::Any(vec![
            text(salt),
            scalar(&Cell::Int(i128::from(ROUNDS.get()))),
            text(combined),
        ]))
    }

    fn last(&mut self, user: &str, proof: &str) -> Said<String> {
        let exchange = self.exchange.take().ok_or("no exchange was begun")?;
        let sign = |key: &[u8], message: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
        };
        let client_key = sign(&exchange.salted, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = sign(stored.as_ref(), exchange.message.as_bytes());
        let expected: Vec<u8> = client_key
            .as_ref()
            .iter()
            .zip(signature.as_ref())
            .map(|(a, b)| a ^ b)
            .collect();
        let proof = BASE64.decode(proof).map_err(|error| error.to_string())?;
        if proof != expected || user != self.accounts.user || exchange.nonce.is_empty() {
            return Err(WRONG.into());
        }
        self.user = Some(user.to_owned());
        self.way = "scram";
        let server_key = sign(&exchange.salted, b"Server Key");
        Ok(BASE64.encode(sign(server_key.as_ref(), exchange.message.as_bytes())))
    }
}
