//! What an activation needs of a container.

use protocol::{ByteSize, EntityName, FullyQualifiedName, Revision};

/// Which containers may be shared: they never cross invoking namespaces, nor revisions of an action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The namespace that invokes, which need not be the action's own.
    pub namespace: EntityName,
    /// The action as stored, with its provider's path.
    pub action: FullyQualifiedName,
    pub revision: Revision,
}

/// A container as an activation needs it.
#[derive(Debug, Clone)]
pub struct Need {
    pub key: PoolKey,
    /// Resolved kind (`nodejs:20`), or `blackbox`.
    pub kind: String,
    /// The image, for `blackbox`.
    pub image: Option<String>,
    /// The action's memory limit: what the container occupies from its creation until it is destroyed.
    pub memory: ByteSize,
    /// Activations that may be in it at once; at least 1.
    pub slots: usize,
}

impl Need {
    /// A unique name for the container `counter` of node `node`: `wsk0_17_guest_hello`.
    ///
    /// Source: apache/openwhisk `ContainerProxy.containerName`.
    pub fn container_name(&self, node: u64, counter: u64) -> String {
        container_name(node, counter, self.key.namespace.as_str(), self.key.action.name.as_str())
    }
}

/// `wsk{node}_{counter}_{owner}_{what}`, the last two without anything but letters, digits and `_`.
pub(super) fn container_name(node: u64, counter: u64, owner: &str, what: &str) -> String {
    let clean = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    format!("wsk{node}_{counter}_{}_{}", clean(owner), clean(what))
}

#[cfg(test)]
mod tests {
    use super::container_name;

    #[test]
    fn names_keep_letters_digits_and_underscores() {
        assert_eq!(container_name(3, 17, "guest@mail.org", "say hello-2_b"), "wsk3_17_guestmailorg_sayhello2_b");
    }
}
