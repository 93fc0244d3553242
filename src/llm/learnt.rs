//! Lessons from refusals, kept for an hour so that the next request is right at once. A lesson belongs to a server, a
//! key and a model, since another account may have what one is refused.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};

use super::{adaptation::Adaptation, wire::Wire};

/// Lifetime of a lesson: accounts get access to models, and servers are updated.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// The most lessons that are kept, of some 200 bytes each.
const MAX_LESSONS: usize = 4096;

/// Lesson about a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lesson {
    /// The model is gone, or closed to the account.
    pub gone: bool,
    /// The model that the provider named in its place.
    pub successor: Option<String>,
    /// The API that serves it.
    pub wire: Option<Wire>,
    /// The server only knows its older paths.
    pub old_path: bool,
    /// Changes to its requests.
    pub adaptation: Adaptation,
}

/// A server and a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(u64);

/// The lessons of one server, shared by its workers.
#[derive(Default)]
pub struct Learnt {
    // By a hash with a key of this process, so that no URL and no key is held.
    hasher: RandomState,
    lessons: Mutex<HashMap<u64, (Lesson, Instant)>>,
}

impl Learnt {
    /// Returns the scope of a server's base URL and a key.
    pub fn scope(&self, base_url: &str, key: &SecretString) -> Scope {
        Scope(self.hasher.hash_one((base_url, key.expose_secret())))
    }

    /// Returns the lesson about a model that is called through `wire`.
    pub fn lesson(&self, scope: Scope, model: &str, wire: Wire) -> Lesson {
        let key = self.hasher.hash_one((scope.0, model, wire));
        let lessons = self.lessons();
        let found = lessons.get(&key);
        found.filter(|(_, until)| *until > Instant::now()).map(|(lesson, _)| lesson.clone()).unwrap_or_default()
    }

    /// Keeps a lesson in place of the last one.
    pub fn learn(&self, scope: Scope, model: &str, wire: Wire, lesson: Lesson) {
        let now = Instant::now();
        let mut lessons = self.lessons();
        if lessons.len() >= MAX_LESSONS {
            lessons.retain(|_, (_, until)| *until > now);
        }
        if lessons.len() >= MAX_LESSONS
            && let Some(oldest) = lessons.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| *key)
        {
            lessons.remove(&oldest);
        }
        lessons.insert(self.hasher.hash_one((scope.0, model, wire)), (lesson, now + LIFETIME));
    }

    fn lessons(&self) -> MutexGuard<'_, HashMap<u64, (Lesson, Instant)>> {
        self.lessons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone() -> Lesson {
        Lesson { gone: true, ..Lesson::default() }
    }

    #[test]
    fn a_lesson_holds_for_one_server_key_model_and_api() {
        let learnt = Learnt::default();
        let scope = |url, key: &str| learnt.scope(url, &key.into());
        learnt.learn(scope("http://a", "k"), "m", Wire::Chat, gone());
        assert_eq!(learnt.lesson(scope("http://a", "k"), "m", Wire::Chat), gone());
        for (url, key, model, wire) in [
            ("http://b", "k", "m", Wire::Chat),
            ("http://a", "l", "m", Wire::Chat),
            ("http://a", "k", "n", Wire::Chat),
            ("http://a", "k", "m", Wire::Responses),
        ] {
            assert_eq!(learnt.lesson(scope(url, key), model, wire), Lesson::default());
        }
    }

    #[test]
    fn lessons_are_bounded_and_the_oldest_goes_first() {
        let learnt = Learnt::default();
        let scope = learnt.scope("http://a", &"k".into());
        for number in 0..=MAX_LESSONS {
            learnt.learn(scope, &number.to_string(), Wire::Chat, gone());
        }
        assert_eq!(learnt.lessons().len(), MAX_LESSONS);
        assert!(!learnt.lesson(scope, "0", Wire::Chat).gone && learnt.lesson(scope, "1", Wire::Chat).gone);
    }

    #[test]
    fn a_lesson_is_forgotten_after_an_hour() {
        let learnt = Learnt::default();
        let scope = learnt.scope("http://a", &"k".into());
        learnt.learn(scope, "m", Wire::Chat, gone());
        learnt.lessons().values_mut().for_each(|(_, until)| *until -= LIFETIME);
        assert!(!learnt.lesson(scope, "m", Wire::Chat).gone);
    }
}
