//! The network of the containers: by default one of the node's own, a bridge on which containers cannot speak to each other.
//! Anybody on Docker's `bridge` could call `/run` of anybody else's action.
//!
//! The node finds containers by their addresses on it, and they find the node's API at its gateway.

use std::{collections::HashMap, net::IpAddr};

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use parking_lot::Mutex;

use super::{
    StartError,
    engine::{Call, Engine, EngineError},
};

/// Whether containers on a bridge may speak to each other.
const NEIGHBOURS: &str = "com.docker.network.bridge.enable_icc";

#[derive(Debug)]
pub(super) struct Network {
    engine: Engine,
    name: String,
    /// The operator's own is used as it is.
    own: Option<(&'static str, String)>,
    /// Where it was at start, so that it is there again if it has to be made anew.
    place: Mutex<Option<IpamConfig>>,
    neighbours: bool,
}

impl Network {
    /// Uses the network `configured`, or makes the node's own, called `name`, with a label that says whose it is.
    pub async fn start(
        engine: Engine,
        configured: Option<String>,
        name: String,
        label: (&'static str, String),
    ) -> Result<Self, StartError> {
        let own = configured.is_none().then_some(label);
        let name = configured.unwrap_or(name);
        if ["host", "none"].contains(&name.as_str()) || name.starts_with("container:") {
            return Err(StartError::Network {
                name,
                reason: "containers need addresses of their own there".to_owned(),
            });
        }
        let network = Self { engine, name, own, place: Mutex::default(), neighbours: false };
        let found = match network.inspect().await {
            Err(error) if error.is_not_found() && network.own.is_some() => {
                network.create().await?;
                network.inspect().await?
            }
            found => found?,
        };
        if let Some((key, value)) = &network.own
            && found.labels.as_ref().and_then(|labels| labels.get(*key)) != Some(value)
        {
            let reason = format!("it is not this node's: its label {key} is not {value}");
            return Err(StartError::Network { name: network.name, reason });
        }
        let neighbours =
            found.options.as_ref().and_then(|options| options.get(NEIGHBOURS)).is_none_or(|on| on != "false");
        let place = found.ipam.and_then(|ipam| ipam.config?.into_iter().find(|place| address(place).is_some()));
        Ok(Self { place: Mutex::new(place), neighbours, ..network })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine's own address on it.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.place.lock().as_ref().and_then(address)
    }

    /// What containers lack, or have too much, on it.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.neighbours {
            warnings.push(format!("containers on the Docker network '{}' can reach each other", self.name));
        }
        if self.gateway().is_none() {
            let name = &self.name;
            warnings.push(format!("actions cannot call the API: the Docker network '{name}' has no IPv4 gateway"));
        }
        warnings
    }

    /// Makes the node's own anew if somebody removed it.
    pub async fn repair(&self) -> Result<(), EngineError> {
        match self.inspect().await {
            Err(error) if error.is_not_found() && self.own.is_some() => {
                tracing::warn!(network = self.name, "the containers' network was gone; making it anew");
                self.create().await
            }
            found => found.map(drop),
        }
    }

    /// Removes the node's own. No container may be left on it.
    pub async fn remove(&self) -> Result<(), EngineError> {
        if self.own.is_none() {
            return Ok(());
        }
        let name = self.name.clone();
        let removed = self.engine.call(Call::RemoveNetwork, |docker| async move { docker.remove_network(&name).await });
        removed.await.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
    }

    async fn inspect(&self) -> Result<NetworkInspect, EngineError> {
        let name = self.name.clone();
        let inspected =
            self.engine.call(Call::InspectNetwork, |docker| async move { docker.inspect_network(&name, None).await });
        inspected.await
    }

    async fn create(&self) -> Result<(), EngineError> {
        let place = self.place.lock().clone();
        let request = NetworkCreateRequest {
            name: self.name.clone(),
            driver: Some("bridge".to_owned()),
            options: Some(HashMap::from([(NEIGHBOURS.to_owned(), "false".to_owned())])),
            labels: self.own.clone().map(|(key, value)| HashMap::from([(key.to_owned(), value)])),
            ipam: place.map(|place| Ipam { config: Some(vec![place]), ..Ipam::default() }),
            ..NetworkCreateRequest::default()
        };
        let created =
            self.engine.call(Call::MakeNetwork, |docker| async move { docker.create_network(request).await.map(drop) });
        created.await
    }
}

/// The gateway of an IPv4 network.
fn address(place: &IpamConfig) -> Option<IpAddr> {
    // Some engines give it with the length of the network's prefix.
    let address = place.gateway.as_deref()?.split('/').next()?.parse().ok()?;
    Some(address).filter(IpAddr::is_ipv4)
}
