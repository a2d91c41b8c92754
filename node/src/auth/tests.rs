//! Users and credentials against a real store with one node.

use std::{net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use protocol::{EntityName, NodeId, ShardId, identity::Identity};
use raft_store::{MetaChange, Observer, Options, ShardChange, Store, Timers};

use super::*;
use crate::cluster::raft::{GroupTimers, Groups};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct Feeds(Arc<Directory>);

impl Observer for Feeds {
    fn meta_applied(&self, changes: &[MetaChange]) {
        self.0.meta_applied(changes);
    }

    fn shard_applied(&self, _shard: ShardId, _changes: &[ShardChange]) {}
}

struct Fixture {
    groups: Groups,
    users: Users,
    authenticator: Authenticator,
    dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    async fn on(dir: tempfile::TempDir) -> Self {
        let store = Store::open(dir.path(), Options::default()).unwrap();
        let directory = Arc::new(Directory::load(store.meta()).unwrap());
        let key = DataKey::of(&[7; 32]);
        let timers = GroupTimers { meta: Timers::RELAXED, shards: Timers::RELAXED };
        let observer = Arc::new(Feeds(Arc::clone(&directory)));
        let groups = Groups::start(NodeId(1), store, 1, timers, observer).await.unwrap();
        let users = Users::new(groups.clone(), key.clone());
        Self { groups, users, authenticator: Authenticator::new(directory, key, 5), dir }
    }

    /// As after a restart of the process.
    async fn reopened(self) -> Self {
        let Self { groups, users, authenticator, dir } = self;
        let store = groups.store().clone();
        groups.shutdown().await;
        drop((groups, users, authenticator));
        // Tasks of the groups may hold it a little longer.
        tokio::task::spawn_blocking(|| store.close(Duration::from_secs(30))).await.unwrap().unwrap();
        Self::on(dir).await
    }

    async fn create(&self, subject: &str, namespace: Option<&str>) -> Result<NamespaceCredentials, UserError> {
        self.users.create(&new_user(subject, namespace)).await
    }

    /// At a time of its own, so that one test's failures do not add up.
    fn login(&self, credentials: &impl ToString) -> Result<Arc<Identity>, AuthError> {
        static MINUTE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let now_ms = MINUTE.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * 60_000;
        self.header(&format!("Basic {}", STANDARD.encode(credentials.to_string())), now_ms)
    }

    fn header(&self, header: &str, now_ms: u64) -> Result<Arc<Identity>, AuthError> {
        self.authenticator.authenticate(Some(header.as_bytes()), HERE, now_ms)
    }
}

fn new_user(subject: &str, namespace: Option<&str>) -> NewUser {
    NewUser { subject: subject.to_owned(), namespace: namespace.map(str::to_owned), credentials: None, revoke: false }
}

fn text<T>(result: Result<T, UserError>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_new_users_key_works_at_once_and_after_a_restart() {
    let fixture = Fixture::new().await;
    let made = fixture.create(" alice ", None).await.unwrap();
    let other = fixture.create("alice", Some("team")).await.unwrap();
    assert_eq!(made.credentials.key.len(), 64);
    let identity = |namespace: &str, made: &NamespaceCredentials| Identity {
        subject: "alice".to_owned(),
        namespace: EntityName::new(namespace).unwrap(),
        uuid: made.credentials.uuid.clone(),
    };
    let check = |fixture: &Fixture| {
        assert_eq!(*fixture.login(&made.credentials).unwrap(), identity("alice", &made));
        assert_eq!(*fixture.login(&other.credentials).unwrap(), identity("team", &other));
        let uuid = &made.credentials.uuid;
        assert_eq!(fixture.authenticator.credentials_of(uuid), Some(made.credentials.to_string()));
    };
    check(&fixture);
    let fixture = fixture.reopened().await;
    check(&fixture);
    assert_eq!(fixture.users.get("alice", None).await.unwrap(), made);
    assert_eq!(fixture.users.all_of("alice").await.unwrap(), [made, other]);
}

#[tokio::test]
async fn what_is_no_login() {
    let fixture = Fixture::new().await;
    let Credentials { uuid, key } = fixture.create("alice", None).await.unwrap().credentials;
    for wrong in [
        format!("{uuid}:{}", "x".repeat(64)),
        format!("{uuid}:{}", &key[..63]),
        format!("{uuid}:{key}x"),
        format!("{uuid}:"),
        uuid.clone(),
        format!(":{key}"),
        format!("{}:{key}", uuid::Uuid::new_v4()),
        String::new(),
    ] {
        assert_eq!(fixture.login(&wrong), Err(AuthError::Invalid), "{wrong:?}");
    }
    let good = STANDARD.encode(format!("{uuid}:{key}"));
    for (minute, (header, error)) in [
        ("", AuthError::NoCredentials),
        ("Bearer abc", AuthError::NoCredentials),
        ("Basi", AuthError::NoCredentials),
        (good.as_str(), AuthError::NoCredentials),
        ("Basic ", AuthError::Invalid),
        ("Basic !!!", AuthError::Invalid),
        (&format!("Basic {good}{good}"), AuthError::Invalid),
        (&format!("Basic {}", "A".repeat(2000)), AuthError::Invalid),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(fixture.header(header, minute as u64 * 60_000), Err(error), "{header:?}");
    }
    let nothing = fixture.authenticator.authenticate(None, HERE, 0).unwrap_err();
    assert_eq!(nothing.message(), "The resource requires authentication, which was not supplied with the request");
    assert_eq!(AuthError::Invalid.message(), "The supplied authentication is invalid");
    for header in [format!("basic {good}"), format!("BASIC   {good}"), format!("Basic {}", good.trim_end_matches('='))]
    {
        assert!(fixture.header(&header, 0).is_ok(), "{header:?}");
    }
}

#[tokio::test]
async fn failures_of_one_address_end_in_429_and_spare_the_others() {
    let fixture = Fixture::new().await;
    let made = fixture.create("alice", None).await.unwrap().credentials;
    let wrong = format!("Basic {}", STANDARD.encode(format!("{}:{}", made.uuid, "x".repeat(64))));
    let right = format!("Basic {}", STANDARD.encode(made.to_string()));
    for _ in 0..5 {
        assert_eq!(fixture.header(&wrong, 0), Err(AuthError::Invalid));
    }
    assert_eq!(fixture.header(&wrong, 0), Err(AuthError::TooManyFailures));
    assert_eq!(fixture.header(&right, 0), Err(AuthError::TooManyFailures), "or guessing would go on unseen");
    assert!(fixture.authenticator.authenticate(Some(right.as_bytes()), "192.0.2.1".parse().unwrap(), 0).is_ok());
    // One in 64 uuids shares a counter with alice's; not all of these do.
    let mut spared = 0;
    for name in ["bobby", "carol", "david", "erika", "fredy"] {
        let own = fixture.create(name, None).await.unwrap().credentials;
        spared += u32::from(fixture.header(&format!("Basic {}", STANDARD.encode(own.to_string())), 0).is_ok());
    }
    assert!(spared > 0);
    assert!(fixture.header(&right, 60_000).is_ok(), "a minute later all is forgotten");
}

#[tokio::test]
async fn blocking_ends_logins_until_unblocked() {
    let fixture = Fixture::new().await;
    let made = fixture.create("alice", None).await.unwrap().credentials;
    fixture.users.set_blocked("alice", true).await.unwrap();
    assert_eq!(fixture.login(&made), Err(AuthError::Invalid));
    assert_eq!(fixture.authenticator.credentials_of(&made.uuid), None);
    assert_eq!(text(fixture.create("alice", Some("other")).await), "The subject you want to edit is blocked");
    assert_eq!(text(fixture.users.whois(&made).await), "Subject id is not recognized");
    assert_eq!(text(fixture.users.list("alice", None).await), "no identities found for namespace \"alice\"");
    let fixture = fixture.reopened().await;
    assert_eq!(fixture.login(&made), Err(AuthError::Invalid));
    fixture.users.set_blocked("alice", false).await.unwrap();
    assert!(fixture.login(&made).is_ok());
    assert_eq!(
        text(fixture.users.set_blocked("nobody", true).await),
        "Failed to get subject (\"nobody\" does not exist)"
    );
}

#[tokio::test]
async fn deleting_a_namespace_or_a_subject_ends_its_keys() {
    let fixture = Fixture::new().await;
    let made = fixture.create("alice", None).await.unwrap().credentials;
    let team = fixture.create("alice", Some("team")).await.unwrap().credentials;
    assert_eq!(text(fixture.users.delete("alice", Some("x")).await), "Namespace \"x\" does not exist for \"alice\"");
    fixture.users.delete("alice", Some("team")).await.unwrap();
    assert_eq!(fixture.login(&team), Err(AuthError::Invalid));
    assert!(fixture.login(&made).is_ok());
    fixture.users.delete("alice", None).await.unwrap();
    assert_eq!(fixture.login(&made), Err(AuthError::Invalid));
    assert_eq!(text(fixture.users.get("alice", None).await), "Failed to get subject (\"alice\" does not exist)");
    // The uuid is free again.
    let again = NewUser { credentials: Some(made.clone()), ..new_user("alice", None) };
    fixture.users.create(&again).await.unwrap();
    assert!(fixture.login(&made).is_ok());
}

#[tokio::test]
async fn revoking_replaces_a_key() {
    let fixture = Fixture::new().await;
    let made = fixture.create("alice", None).await.unwrap().credentials;
    assert_eq!(text(fixture.create("alice", None).await), "Namespace already exists");
    let revoke = NewUser { revoke: true, ..new_user("alice", None) };
    let new = fixture.users.create(&revoke).await.unwrap().credentials;
    assert_eq!(fixture.login(&made), Err(AuthError::Invalid));
    assert!(fixture.login(&new).is_ok());
    // The same uuid with another key.
    let key = Credentials { uuid: new.uuid.clone(), key: "k".repeat(64) };
    let same_uuid = NewUser { credentials: Some(key.clone()), ..revoke };
    fixture.users.create(&same_uuid).await.unwrap();
    assert_eq!(fixture.login(&new), Err(AuthError::Invalid));
    assert!(fixture.login(&key).is_ok());
}

#[tokio::test]
async fn two_subjects_may_share_a_namespace_but_never_a_uuid() {
    let fixture = Fixture::new().await;
    let alice = fixture.create("alice", Some("team")).await.unwrap().credentials;
    let bobby = fixture.create("bobby", Some("team")).await.unwrap().credentials;
    let stolen = NewUser { credentials: Some(alice.clone()), ..new_user("carol", None) };
    assert_eq!(text(fixture.users.create(&stolen).await), "authorization id is in use already");
    let who = |found: Vec<IdentityEntry>| found.into_iter().map(|it| (it.subject, it.credentials)).collect::<Vec<_>>();
    let both = [("alice".to_owned(), alice.clone()), ("bobby".to_owned(), bobby)];
    assert_eq!(who(fixture.users.list("team", None).await.unwrap()), both);
    assert_eq!(who(fixture.users.list("team", Some(1)).await.unwrap()), both[..1]);
    let found = fixture.users.whois(&alice).await.unwrap();
    assert_eq!((found.subject.as_str(), found.namespace.as_str()), ("alice", "team"));
    let guess = Credentials { key: "x".repeat(64), ..alice };
    assert_eq!(text(fixture.users.whois(&guess).await), "Subject id is not recognized");
    assert_eq!(text(fixture.users.get("alice", Some("x")).await), "namespace \"x\" not found for \"alice\"");
}

#[tokio::test]
async fn what_cannot_be_created() {
    let fixture = Fixture::new().await;
    for (subject, namespace, error) in [
        (" abc ", None, "Subject name must be at least 5 characters"),
        ("alice", Some(" "), "Namespace must not be empty"),
        ("alice", Some("a/b"), "Namespace \"a/b\" is not valid: name contains illegal characters"),
        ("alice", Some("_"), "Namespace \"_\" is not valid: name contains illegal characters"),
        ("alice\n", None, "done"),
        ("ali\nce", None, "Subject name must be at most 256 characters without control characters"),
    ] {
        assert_eq!(text(fixture.create(subject, namespace).await), error, "{subject:?} {namespace:?}");
    }
    for (credentials, error) in [
        ("guest:key", "authorization id is not a valid UUID"),
        ("23bc46b171f64ed58c54816aa4f8c502:x", "authorization id is not a valid UUID"),
        ("23bc46b1-71f6-4ed5-8c54-816aa4f8c502:x", "authorization key must be at least 64 characters long"),
        (&format!("{GUEST_KEY}x"), "authorization key must be exactly 64 characters long"),
    ] {
        assert_eq!(Credentials::parse(credentials).unwrap_err().to_string(), error);
    }
}

#[tokio::test]
async fn changes_that_race_are_all_done_or_refused() {
    let fixture = Fixture::new().await;
    let creates = (0..6).map(|n| {
        let (users, name) = (&fixture.users, format!("ns{n}"));
        async move { users.create(&new_user("alice", Some(&name))).await.unwrap().credentials }
    });
    // All read before the first one writes, so all but one must look again.
    let made = futures_util::future::join_all(creates).await;
    assert_eq!(fixture.users.all_of("alice").await.unwrap().len(), 6);
    assert!(made.iter().all(|credentials| fixture.login(credentials).is_ok()));
}

#[tokio::test]
async fn limits_are_merged_kept_and_dropped() {
    let fixture = Fixture::new().await;
    assert_eq!(text(fixture.users.limits("team").await), "No limits found, default system limits apply");
    let set = |json: &str| serde_json::from_str::<LimitsUpdate>(json).unwrap();
    fixture.users.set_limits("team", &set(r#"{"firesPerMinute":7}"#)).await.unwrap();
    assert_eq!(fixture.users.limits("team").await.unwrap(), set(r#"{"firesPerMinute":7}"#));
    fixture.users.set_limits("team", &set(r#"{"maxActionMemory":256}"#)).await.unwrap();
    // Against what is there already.
    let refused = fixture.users.set_limits("team", &set(r#"{"minActionMemory":512}"#)).await;
    assert_eq!(text(refused), "minActionMemory 512 is more than maxActionMemory 256");
    let fixture = fixture.reopened().await;
    assert_eq!(fixture.users.limits("team").await.unwrap(), set(r#"{"firesPerMinute":7,"maxActionMemory":256}"#));
    fixture.users.delete_limits("team").await.unwrap();
    assert!(fixture.users.delete_limits("team").await.is_err());
}

#[tokio::test]
async fn the_guest_key_comes_with_dev_and_goes_without() {
    let fixture = Fixture::new().await;
    remove_guest(&fixture.users).await.unwrap();
    assert_eq!(fixture.login(&GUEST_KEY), Err(AuthError::Invalid));
    for _ in 0..2 {
        create_guest(&fixture.users).await.unwrap();
        assert_eq!(fixture.login(&GUEST_KEY).unwrap().namespace.as_str(), "guest");
    }
    let own = fixture.create("guest", Some("own")).await.unwrap().credentials;
    remove_guest(&fixture.users).await.unwrap();
    assert_eq!(fixture.login(&GUEST_KEY), Err(AuthError::Invalid));
    assert!(fixture.login(&own).is_ok());
}

/// Stored keys are neither readable nor comparable without the data key.
#[tokio::test]
async fn the_store_never_holds_a_key() {
    let fixture = Fixture::new().await;
    let made = fixture.create("alice", None).await.unwrap().credentials;
    fixture.groups.shutdown().await;
    let mut files = 0;
    let mut dirs = vec![fixture.dir.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            files += 1;
            let found = bytes.windows(made.key.len()).any(|window| window == made.key.as_bytes());
            assert!(!found, "{} holds the key", path.display());
        }
    }
    assert!(files > 2);
}
