//! X25519 for snow, by aws-lc: faster than snow's own, and a result of all zeros (a low-order
//! public key) fails the handshake, which snow's own lets pass.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroize;

const KEY_LEN: usize = 32;

/// Snow's primitives, with X25519 replaced.
pub(super) struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::<X25519Dh>::default()),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

#[derive(Default)]
struct X25519Dh {
    private: [u8; KEY_LEN],
    public: [u8; KEY_LEN],
    key: Option<PrivateKey>,
}

impl Dh for X25519Dh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    /// Snow's trait cannot fail here: a key that is not understood fails at its first use.
    fn set(&mut self, privkey: &[u8]) {
        self.key = PrivateKey::from_private_key(&X25519, privkey).ok();
        self.private = privkey.try_into().unwrap_or_default();
        self.public = self.key.as_ref().and_then(public_bytes).unwrap_or_default();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut private = [0; KEY_LEN];
        rng.try_fill_bytes(&mut private)?;
        self.set(&private);
        private.zeroize();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let key = self.key.as_ref().ok_or(snow::Error::Dh)?;
        // Snow hands over a buffer that may be longer than the key.
        let peer = pubkey.get(..KEY_LEN).ok_or(snow::Error::Dh)?;
        let out = out.get_mut(..KEY_LEN).ok_or(snow::Error::Dh)?;
        agreement::agree(
            key,
            UnparsedPublicKey::new(&X25519, peer),
            snow::Error::Dh,
            |secret| {
                let secret: &[u8; KEY_LEN] = secret.try_into().map_err(|_| snow::Error::Dh)?;
                out.copy_from_slice(secret);
                Ok(())
            },
        )
    }
}

impl Drop for X25519Dh {
    fn drop(&mut self) {
        self.private.zeroize();
    }
}

fn public_bytes(key: &PrivateKey) -> Option<[u8; KEY_LEN]> {
    key.compute_public_key().ok()?.as_ref().try_into().ok()
}
