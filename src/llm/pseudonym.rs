//! Names of users for providers that want to tell a customer's users apart,
//! and to send one user's prompts to one cache.

use jsonwebtoken::{Algorithm, EncodingKey};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

/// How much of the hash is used, in characters of base64.
const LENGTH: usize = 32;

/// Returns a hash of a user's id, keyed with the key that the provider is
/// called with: the same for each of the user's requests, and of no meaning
/// anywhere else.
pub fn pseudonym(user: Uuid, key: &SecretString) -> Option<String> {
    let key = EncodingKey::from_secret(key.expose_secret().as_bytes());
    let hash = jsonwebtoken::crypto::sign(user.as_bytes(), &key, Algorithm::HS256).ok()?;
    hash.get(..LENGTH).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_one_name_for_each_key() {
        let (user, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let name = |user, key: &str| pseudonym(user, &key.into()).expect("a name");
        assert_eq!(name(user, "k"), name(user, "k"));
        assert_ne!(name(user, "k"), name(other, "k"));
        assert_ne!(name(user, "k"), name(user, "l"));
        assert_eq!(name(user, "").len(), LENGTH);
    }
}
