//! `spillway-control`: the command line.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]

use std::io::{IsTerminal as _, Read as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use kube::Client;
use spillway_api::{Nat64Prefix, ReplyVni, Tunnel, check_device_name};
use spillway_control::cluster::{Network, Underlay};
use spillway_control::gateway::Host;
use spillway_control::lint::{Linted, lint};
use spillway_control::plan::Here;
use spillway_control::{crds, explain, read, run};

/// Drives Spillway from Kubernetes: CiliumEgressGatewayPolicy objects in, the router programmed.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch the cluster and program the router of this node.
    Run {
        /// The name of this node in Kubernetes.
        #[arg(long, env = "NODE_NAME")]
        node: String,
        /// The router's socket.
        #[arg(long, env = "SPILLWAY_SOCKET", default_value = spillway_api::SOCKET_DEFAULT)]
        socket: PathBuf,
        /// Egress addresses that Spillway has alone although they are the first of their interface.
        #[arg(long, env = "SPILLWAY_OWN_ADDRESSES", value_delimiter = ',')]
        own_addresses: Vec<IpAddr>,
        /// A device that the router drives: on it Spillway itself answers for egress addresses that
        /// this host does not have, and announces them. Without it, such policies are not carried.
        #[arg(long, env = "SPILLWAY_ANNOUNCE_ON", value_name = "DEVICE", value_parser = parse_device)]
        announce_on: Option<String>,
        /// The tunnel of this node's own pods, as the state document has one, in YAML or JSON: the
        /// gateway's address in it, the node's, and the device between them.
        #[arg(long, env = "SPILLWAY_OWN_PODS", value_parser = parse_tunnel)]
        own_pods: Option<Tunnel>,
        /// The VXLAN network identifier of replies: a number, or `flow` for that of the flow's own
        /// frames. Cilium expects 2, and in a cluster of both families 9 …
        #[arg(long, env = "SPILLWAY_REPLY_VNI", default_value = "2", value_parser = parse_vni)]
        reply_vni: ReplyVni,
        /// … and 10 for IPv6. Default: the same.
        #[arg(long, env = "SPILLWAY_REPLY_VNI_IPV6", value_parser = parse_vni)]
        reply_vni_ipv6: Option<ReplyVni>,
        #[command(flatten)]
        network: NetworkArguments,
    },
    /// Check policies in files, without a cluster. `-` is the standard input.
    Lint {
        /// Files with policies; objects of other kinds in them are left out.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Tell with which address a pod reaches a destination, and why.
    Explain {
        /// The pod, as `namespace/name`.
        pod: String,
        /// Where it wants to go.
        destination: IpAddr,
        #[command(flatten)]
        network: NetworkArguments,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the custom resource definitions.
    Crds {
        #[command(subcommand)]
        command: Option<CrdsCommand>,
    },
}

/// What no object of the cluster tells, and what is the same for all gateways.
#[derive(Args)]
struct NetworkArguments {
    /// Where pods with IPv6 addresses reach IPv4 destinations: the prefix of the cluster's DNS64, for
    /// instance 64:ff9b::/96. Without it the gateways do no NAT64.
    #[arg(long, env = "SPILLWAY_NAT64_PREFIX", value_name = "PREFIX")]
    nat64_prefix: Option<Nat64Prefix>,
    /// Whether the tunnels between nodes are of IPv4 or IPv6: what Cilium has as underlay-protocol.
    /// `auto`: IPv4 if this node has an internal IPv4 address.
    #[arg(long, env = "SPILLWAY_UNDERLAY_PROTOCOL", value_enum, default_value_t)]
    underlay_protocol: Underlay,
    /// Ranges of the cluster beside those of its nodes and their pods: services, for instance.
    /// Never translated. Several: with commas.
    #[arg(long, env = "SPILLWAY_CLUSTER_RANGES", value_delimiter = ',')]
    cluster_ranges: Vec<IpNet>,
}

impl From<NetworkArguments> for Network {
    fn from(arguments: NetworkArguments) -> Self {
        let NetworkArguments { nat64_prefix, underlay_protocol: underlay, cluster_ranges } =
            arguments;
        Self { underlay, nat64_prefix, cluster_ranges }
    }
}

#[derive(Subcommand)]
enum CrdsCommand {
    /// Bring them to the cluster; Cilium's only where there is none.
    Install,
}

fn parse_device(text: &str) -> Result<String, String> {
    check_device_name(text).map(|()| text.to_owned())
}

fn parse_tunnel(text: &str) -> Result<Tunnel, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

fn parse_vni(text: &str) -> Result<ReplyVni, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match start(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("spillway-control: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn start(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Run {
            node,
            socket,
            own_addresses,
            announce_on,
            own_pods,
            reply_vni,
            reply_vni_ipv6,
            network,
        } => {
            let filter = tracing_subscriber::EnvFilter::try_from_default_env();
            // The client's own lines say less than ours, and say it for every attempt.
            let filter = filter.unwrap_or_else(|_| "info,kube_client=off,kube_runtime=off".into());
            let ansi = std::io::stderr().is_terminal();
            let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi);
            log.with_writer(std::io::stderr).init();
            let own_addresses = own_addresses.into_iter().collect();
            let host = Host::default();
            let here = Here {
                node,
                host,
                own_addresses,
                announce_on,
                own_pods,
                reply_vni,
                reply_vni_ipv6,
            };
            run::run(connect().await?, socket, network.into(), here).await?;
        }
        Command::Lint { files, json } => return lint_files(&files, json),
        Command::Explain { pod, destination, network, json } => {
            let Some((namespace, name)) = pod.split_once('/') else {
                bail!("{pod:?} is no pod; expected namespace/name");
            };
            let cluster = read::read(connect().await?, network.into()).await?;
            let key = (namespace.to_owned(), name.to_owned());
            let found = explain::explain(&cluster, &key, destination);
            if json {
                println!("{}", serde_json::to_string_pretty(&found)?);
            } else {
                print!("{found}");
            }
            return Ok(if found.policy.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Crds { command: None } => print!("{}---\n{}", crds::POLICY, crds::STATUS),
        Command::Crds { command: Some(CrdsCommand::Install) } => {
            for line in crds::install(connect().await?).await? {
                println!("{line}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn connect() -> Result<Client> {
    Client::try_default().await.context(
        "no API server to talk to: in a pod its service account is used, elsewhere KUBECONFIG or \
         ~/.kube/config",
    )
}

/// 0 when every policy is good, 1 when one is refused.
fn lint_files(files: &[PathBuf], json: bool) -> Result<ExitCode> {
    let mut all: Vec<Linted> = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = if name == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            text
        } else {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?
        };
        let found = lint(&name, &text).map_err(anyhow::Error::msg)?;
        if found.is_empty() {
            bail!("{name}: no CiliumEgressGatewayPolicy in it");
        }
        all.extend(found);
    }
    let refused = all.iter().filter(|one| !one.faults.is_empty()).count();
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        for Linted { file, policy, faults, warnings, .. } in &all {
            for fault in faults {
                println!("{file}: {policy}: error: {fault}");
            }
            for warning in warnings {
                println!("{file}: {policy}: warning: {warning}");
            }
        }
        println!("{} policies, {refused} refused", all.len());
    }
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
