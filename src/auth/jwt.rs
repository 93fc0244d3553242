//! JWT → the claims that the server relies on. The algorithm is determined by the key and never by the token, so that a
//! public key can never pass for a shared secret.

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, errors::ErrorKind};
use serde::Deserialize;
use uuid::Uuid;

/// Rules on sessions beyond a valid signature.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `OAUTH_CLIENTS`, default none: the client ids of third-party apps (Supabase's OAuth server) whose tokens are
    /// accepted, separated by commas.
    pub oauth_clients: Vec<String>,
    /// `REQUIRE_AAL2=on`, default off: refuses sessions without a second factor.
    pub require_aal2: bool,
    /// `ANONYMOUS_USERS=deny`, default allow: refuses anonymous sign-ins.
    pub deny_anonymous: bool,
}

/// The verified claims of an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: the user.
    pub user: Uuid,
    /// `session_id`: the sign-in it came from. Hand-made tokens may have none; such a session cannot be signed out.
    pub session: Option<Uuid>,
}

/// The reason why a token is refused. Never shown to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT, a wrong signature or algorithm, a wrong audience.
    #[error("{0}")]
    Invalid(String),
    /// Valid in every other respect, but `exp` has passed.
    #[error("the access token has expired")]
    Expired(Claims),
    /// Supabase's auth server could not be asked, so the token may be good.
    #[error("{0}")]
    Unavailable(String),
}

/// A key and the one algorithm it is used with.
pub struct VerifyingKey {
    key: DecodingKey,
    validation: Validation,
}

impl VerifyingKey {
    /// Creates the key for tokens signed with a shared secret.
    pub fn hs256(secret: &[u8]) -> Self {
        Self::new(DecodingKey::from_secret(secret), Algorithm::HS256)
    }

    /// Creates a key for one asymmetric algorithm.
    pub fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
        let mut validation = Validation::new(algorithm);
        // The issuer is not checked: the same local stack is spelt 127.0.0.1 or localhost, and the key identifies the
        // issuer.
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.set_audience(&["authenticated"]);
        validation.validate_nbf = true;
        validation.leeway = 0;
        Self { key, validation }
    }

    /// The key's algorithm.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.validation.algorithms.first().copied()
    }

    /// Tells if tokens of this algorithm are verified by this key.
    #[cfg(test)]
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        self.validation.algorithms.contains(&algorithm)
    }

    /// Verifies signature, `exp`, `nbf`, `aud`, `sub`, `session_id` and the policy.
    ///
    /// # Errors
    /// If the token is refused: the reason.
    pub fn verify(&self, token: &str, policy: &Policy) -> Result<Claims, TokenError> {
        match jsonwebtoken::decode::<RawClaims>(token, &self.key, &self.validation) {
            Ok(token) => token.claims.check(policy),
            Err(error) if matches!(error.kind(), ErrorKind::ExpiredSignature) => {
                // `exp` is checked before `aud`: repeat the other checks.
                let validation = Validation { validate_exp: false, ..self.validation.clone() };
                let token = jsonwebtoken::decode::<RawClaims>(token, &self.key, &validation)
                    .map_err(|error| refused(&error))?;
                Err(TokenError::Expired(token.claims.check(policy)?))
            }
            Err(error) => Err(refused(&error)),
        }
    }
}

fn refused(error: &jsonwebtoken::errors::Error) -> TokenError {
    TokenError::Invalid(format!("the access token is not good: {error}"))
}

#[derive(Deserialize)]
struct RawClaims {
    sub: String,
    session_id: Option<String>,
    client_id: Option<String>,
    aal: Option<String>,
    is_anonymous: Option<bool>,
}

impl RawClaims {
    fn check(&self, policy: &Policy) -> Result<Claims, TokenError> {
        let invalid = |reason: String| Err(TokenError::Invalid(reason));
        let uuid = |text: &str, claim: &str| {
            Uuid::try_parse(text).map_err(|_| TokenError::Invalid(format!("the access token's {claim} is no UUID")))
        };
        let session = match self.session_id.as_deref() {
            None | Some("") => None,
            Some(text) => Some(uuid(text, "session_id")?).filter(|id| !id.is_nil()),
        };
        let claims = Claims { user: uuid(&self.sub, "sub")?, session };
        if self.client_id.as_ref().is_some_and(|client| !policy.oauth_clients.contains(client)) {
            return invalid("the access token was issued to an app that OAUTH_CLIENTS does not list".to_owned());
        }
        if policy.require_aal2 && self.aal.as_deref() != Some("aal2") {
            return invalid("the session has no second factor, and REQUIRE_AAL2 is on".to_owned());
        }
        if policy.deny_anonymous && self.is_anonymous == Some(true) {
            return invalid("the user is anonymous, and ANONYMOUS_USERS is deny".to_owned());
        }
        Ok(claims)
    }
}

/// Reads a token's header, before anything is verified.
///
/// # Errors
/// If it is not a JWT, or names an unknown algorithm.
pub fn header(token: &str) -> Result<Header, TokenError> {
    // A longer token can only waste time: an ordinary header has some hundred bytes, a whole token a few thousand.
    const MAX_BYTES: usize = 64 * 1024;
    if token.len() > MAX_BYTES {
        return Err(TokenError::Invalid("the access token is too long".to_owned()));
    }
    jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid("the access token is not a JWT".to_owned()))
}

/// The asymmetric algorithms that Supabase signs with.
pub const ASYMMETRIC: [Algorithm; 3] = [Algorithm::ES256, Algorithm::RS256, Algorithm::EdDSA];

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, encode, get_current_timestamp};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const SECRET: &[u8] = b"a secret of sixteen bytes or more";
    const USER: &str = "5f6c1d9e-0000-4000-8000-000000000001";

    fn token(change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({ "sub": USER, "aud": "authenticated", "role": "authenticated", "exp": get_current_timestamp() + 60 });
        change(&mut claims);
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).expect("signs")
    }

    fn verify(token: &str) -> Result<Claims, TokenError> {
        VerifyingKey::hs256(SECRET).verify(token, &Policy::default())
    }

    fn refused(change: impl FnOnce(&mut Value)) -> bool {
        matches!(verify(&token(change)), Err(TokenError::Invalid(_)))
    }

    #[test]
    fn a_good_one() {
        let user = Uuid::try_parse(USER).expect("uuid");
        assert_eq!(verify(&token(|_| {})), Ok(Claims { user, session: None }));
        let with_session = |id: &str| verify(&token(|claims| claims["session_id"] = json!(id))).expect("good").session;
        assert_eq!(with_session(USER), Some(user));
        assert_eq!(with_session(""), None);
        assert_eq!(with_session("00000000-0000-0000-0000-000000000000"), None);
        assert!(verify(&token(|claims| claims["aud"] = json!(["other", "authenticated"]))).is_ok());
    }

    #[test]
    fn a_policy_refuses_apps_missing_factors_and_anonymous_users() {
        let with = |policy: &Policy, claims: Value| {
            let token =
                token(|all| all.as_object_mut().expect("claims").extend(claims.as_object().expect("claims").clone()));
            VerifyingKey::hs256(SECRET).verify(&token, policy).is_ok()
        };
        let open = Policy::default();
        assert!(with(&open, json!({ "aal": "aal1", "is_anonymous": true })));
        assert!(!with(&open, json!({ "client_id": "app" })));
        let strict = Policy { oauth_clients: vec!["app".to_owned()], require_aal2: true, deny_anonymous: true };
        assert!(with(&strict, json!({ "client_id": "app", "aal": "aal2", "is_anonymous": false })));
        assert!(!with(&strict, json!({ "aal": "aal1" })) && !with(&strict, json!({})));
        assert!(!with(&strict, json!({ "aal": "aal2", "is_anonymous": true })));
    }

    #[test]
    fn times() {
        let expired = |change: fn(&mut Value)| {
            verify(&token(|claims| {
                claims["exp"] = json!(get_current_timestamp() - 1);
                change(claims);
            }))
        };
        assert!(matches!(expired(|_| {}), Err(TokenError::Expired(claims)) if claims.user.to_string() == USER));
        assert!(matches!(expired(|claims| claims["aud"] = json!("another")), Err(TokenError::Invalid(_))));
        assert!(refused(|claims| claims["nbf"] = json!(get_current_timestamp() + 30)));
        assert!(verify(&token(|claims| claims["nbf"] = json!(get_current_timestamp()))).is_ok());
        assert!(refused(|claims| {
            claims.as_object_mut().expect("object").remove("exp");
        }));
    }

    #[test]
    fn claims_that_are_missing_or_wrong() {
        for claim in ["sub", "aud"] {
            assert!(refused(|claims| {
                claims.as_object_mut().expect("object").remove(claim);
            }));
        }
        assert!(refused(|claims| claims["aud"] = json!("anon")));
        assert!(refused(|claims| claims["aud"] = json!([])));
        assert!(refused(|claims| claims["sub"] = json!("me")));
        assert!(refused(|claims| claims["sub"] = json!(7)));
        assert!(refused(|claims| claims["session_id"] = json!("not a uuid")));
    }

    #[test]
    fn signatures_and_algorithms() {
        let good = token(|_| {});
        assert!(VerifyingKey::hs256(b"another secret of some length").verify(&good, &Policy::default()).is_err());
        assert!(
            VerifyingKey::new(DecodingKey::from_secret(SECRET), Algorithm::HS512)
                .verify(&good, &Policy::default())
                .is_err()
        );
        let (signed, _) = good.rsplit_once('.').expect("three parts");
        assert!(verify(&format!("{signed}.")).is_err());
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        let payload = signed.split_once('.').expect("two parts").1;
        assert!(verify(&format!("{none}.{payload}.")).is_err());
        assert!(header(&format!("{none}.{payload}.")).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_a_panic(text in "\\PC{0,200}", parts in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
            for text in [&text, &parts] {
                let _ = header(text);
                prop_assert!(verify(text).is_err());
            }
        }

        #[test]
        fn no_changed_byte_goes_unnoticed(at in any::<prop::sample::Index>(), byte in prop::sample::select(b"ABCxyz019-_".to_vec())) {
            let good = token(|_| {});
            let mut changed = good.clone().into_bytes();
            let at = at.index(changed.len());
            prop_assume!(changed[at] != byte && changed[at] != b'.');
            // The last character of a part has bits that belong to no byte.
            prop_assume!(at + 1 != changed.len() && changed[at + 1] != b'.');
            changed[at] = byte;
            prop_assert!(verify(std::str::from_utf8(&changed).expect("ascii")).is_err());
        }
    }
}
