//! Writing and reading the parts of keys. Order of bytes = order of values, and no two keys share bytes.

use protocol::{
    ActivationId, SessionId,
    ids::NodeId,
    names::{EntityName, EntityPath, FullyQualifiedName},
};

/// Bytes that most keys have at most, so that few are allocated more than once.
const USUAL: usize = 64;

/// Builds a key, part by part.
pub struct KeyWriter(Vec<u8>);

impl KeyWriter {
    pub fn new(space: u8) -> Self {
        let mut key = Vec::with_capacity(USUAL);
        key.push(space);
        Self(key)
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    pub fn u8(&mut self, n: u8) -> &mut Self {
        self.0.push(n);
        self
    }

    pub fn u32(&mut self, n: u32) -> &mut Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    pub fn u64(&mut self, n: u64) -> &mut Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    /// A time, the newest first.
    pub fn newest_first(&mut self, ms: u64) -> &mut Self {
        self.u64(!ms)
    }

    /// A text that something follows: its length in two bytes, then itself. Longer ones (no name is) are cut.
    pub fn text(&mut self, text: &str) -> &mut Self {
        let text = cut(text);
        self.0.extend_from_slice(&(text.len() as u16).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// The last part of a key, in the order of its bytes.
    pub fn rest(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A package's name, empty for the default package.
    pub fn package(&mut self, package: Option<&EntityName>) -> &mut Self {
        self.text(package.map_or("", EntityName::as_str))
    }

    pub fn fqn(&mut self, name: &FullyQualifiedName) {
        self.text(name.path.namespace.as_str()).package(name.path.package.as_ref()).rest(name.name.as_str());
    }

    pub fn session(&mut self, session: SessionId) -> &mut Self {
        self.u64(session.node.0).u64(session.incarnation)
    }

    pub fn id(&mut self, id: &ActivationId) -> &mut Self {
        self.0.extend_from_slice(id.as_bytes());
        self
    }
}

/// At most as many bytes as two bytes can count, at a character boundary.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(usize::from(u16::MAX))]
}

/// Takes a key apart. Every method answers `None` if the bytes do not have that part.
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[n]| n)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub fn newest_first(&mut self) -> Option<u64> {
        self.u64().map(|n| !n)
    }

    pub fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let (text, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        std::str::from_utf8(text).ok()
    }

    pub fn rest(&mut self) -> Option<&'a str> {
        std::str::from_utf8(std::mem::take(&mut self.0)).ok()
    }

    pub fn name(&mut self) -> Option<EntityName> {
        EntityName::new(self.text()?).ok()
    }

    pub fn package(&mut self) -> Option<Option<EntityName>> {
        match self.text()? {
            "" => Some(None),
            name => EntityName::new(name).ok().map(Some),
        }
    }

    pub fn fqn(&mut self) -> Option<FullyQualifiedName> {
        let namespace = self.name()?;
        let package = self.package()?;
        let name = EntityName::new(self.rest()?).ok()?;
        Some(FullyQualifiedName::new(EntityPath { namespace, package }, name))
    }

    pub fn session(&mut self) -> Option<SessionId> {
        Some(SessionId { node: NodeId(self.u64()?), incarnation: self.u64()? })
    }

    pub fn id(&mut self) -> Option<ActivationId> {
        self.take().map(ActivationId::from_bytes)
    }
}
