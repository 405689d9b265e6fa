//! `spillway sysdump` beside a running router, and without one: what is in the archive, and what is not.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use spillway_api::{Drops, Flow, IpFamily, Status};

use crate::drain::exchange;
use crate::packets::{egress, first_flow, pod, server};
use crate::{Rig, state};

/// Secrets that a host may have; none of them may be in an archive.
const KEY: &str = "0x00112233445566778899aabbccddeeff00112233";
const TOKEN: &str = "eyJhbGciOiJub25lIn0.c3BpbGx3YXk";

/// An `ip` that knows IPsec states with keys, whatever this kernel can: one that does not mind `nokeys`.
fn write_ip(directory: &Path) {
    let script = format!(
        "#!/bin/sh\n\
         case \"$*\" in\n\
         *xfrm\\ state*)\n\
           echo \"$*\" >> {0}/asked\n\
           echo 'src 192.0.2.1 dst 192.0.2.2'\n\
           echo '\tproto esp spi 0x00001001 reqid 0 mode tunnel'\n\
           echo '\tauth-trunc hmac(sha256) {KEY} 128' ;;\n\
         *) exec env PATH=/usr/sbin:/sbin:/usr/bin:/bin ip \"$@\" ;;\n\
         esac\n",
        directory.display()
    );
    let path = directory.join("ip");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Makes an archive in the gateway's namespace; gives its entries by name, and what was said.
fn sysdump(rig: &Rig, socket: &str, options: &[&str]) -> (BTreeMap<String, String>, String) {
    let directory = rig.directory.path();
    let tools = directory.join("tools");
    std::fs::create_dir_all(&tools).unwrap();
    write_ip(&tools);
    let file = directory.join("dump.tar.gz");
    let output = Command::new("ip")
        .args(["netns", "exec", rig.gateway.name(), "env"])
        .arg(format!("PATH={}:/usr/sbin:/sbin:/usr/bin:/bin", tools.display()))
        .arg(format!("SPILLWAY_TOKEN={TOKEN}"))
        .args([env!("CARGO_BIN_EXE_spillway"), "sysdump", "--output"])
        .arg(&file)
        .arg("--config")
        .arg(directory.join("config.yaml"))
        .args(["--socket", socket])
        .args(options)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let unpacked = directory.join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let done = Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(&unpacked).status();
    assert!(done.unwrap().success());
    let mut entries = BTreeMap::new();
    let root = std::fs::read_dir(&unpacked).unwrap().next().unwrap().unwrap().path();
    read_all(&root, &root, &mut entries);
    std::fs::remove_dir_all(&unpacked).unwrap();
    (entries, said)
}

/// All files below a directory, by their paths from `root`.
fn read_all(root: &Path, directory: &Path, entries: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(root, &path, entries);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            entries.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn assert_no_secrets(entries: &BTreeMap<String, String>) {
    for (name, text) in entries {
        assert!(!text.contains(KEY) && !text.contains(TOKEN), "{name} has a secret");
    }
}

#[test]
fn an_archive_has_what_a_report_needs_and_no_secrets() {
    let rig = Rig::new("sysdump", true);
    exchange(&rig, first_flow(IpFamily::V4), 0);
    let socket = rig.directory.path().join("spillway.sock").display().to_string();
    let (entries, said) = sysdump(&rig, &socket, &[]);
    println!("{said}{}", entries["CONTENTS.txt"]);
    assert_no_secrets(&entries);
    // The secret was there to be had, and was asked not to be said.
    let asked = std::fs::read_to_string(rig.directory.path().join("tools/asked")).unwrap();
    assert_eq!(asked, "-statistics xfrm state list nokeys\n");
    let states = &entries["tools/ip_-statistics_xfrm_state_list_nokeys.txt"];
    assert!(states.contains("spi 0x00001001") && states.contains("(removed) 128"), "{states}");

    let status: Status = serde_json::from_str(&entries["router/status.json"]).unwrap();
    assert_eq!(status.pid, rig.spillway.id());
    let flows: Vec<Flow> = serde_json::from_str(&entries["router/flows.json"]).unwrap();
    assert_eq!(flows.len(), 1);
    for name in ["router/drops-first.json", "router/drops-later.json"] {
        serde_json::from_str::<Drops>(&entries[name]).unwrap();
    }
    let state: Option<String> = serde_json::from_str(&entries["router/state.json"]).unwrap();
    assert_eq!(spillway_api::Document::parse(&state.unwrap()).unwrap().generation, 1);
    let config = std::fs::read_to_string(rig.directory.path().join("config.yaml")).unwrap();
    assert_eq!(entries["config.yaml"], config);
    let checks: serde_json::Value = serde_json::from_str(&entries["preflight.json"]).unwrap();
    assert!(checks.as_array().unwrap().len() > 10);
    for (name, has) in [
        ("version.txt", env!("CARGO_PKG_VERSION")),
        ("host/proc/net/dev", "node:"),
        ("tools/ip_-json_-pretty_address_show.txt", "192.168.2.3"),
        ("tools/ethtool_-i_out.txt", "driver: veth"),
        ("tools/uname_-a.txt", "Linux"),
        (&format!("host/proc/{}/limits", status.pid), "Max locked memory"),
    ] {
        assert!(entries[name].contains(has), "{name}: {}", entries[name]);
    }
    // Where a tool or a file is not there, the list says so.
    let contents = &entries["CONTENTS.txt"];
    assert!(contents.contains("config.yaml: "), "{contents}");
    for (name, text) in entries.iter().filter(|(name, _)| *name != "CONTENTS.txt") {
        assert!(contents.contains(&format!("{name}: {} bytes\n", text.len())), "{name}");
    }
}

#[test]
fn without_a_router_the_host_is_still_in_the_archive() {
    let rig = Rig::new("nodump", true);
    let (entries, said) = sysdump(&rig, "/nonexistent/socket", &[]);
    assert_no_secrets(&entries);
    assert!(!entries.contains_key("router/status.json"));
    assert!(entries.contains_key("host/proc/version"));
    let contents = &entries["CONTENTS.txt"];
    let missing = "router/status.json: MISSING: cannot reach Spillway at /nonexistent/socket";
    assert!(contents.contains(missing), "{contents}");
    assert!(said.contains("CONTENTS.txt says why others are missing"), "{said}");
}

#[test]
fn an_anonymous_archive_has_others_in_the_place_of_addresses_and_names() {
    let rig = Rig::new("anon-dump", true);
    let pod = pod(first_flow(IpFamily::V6));
    let named = format!("pod_names: [{{name: shop/till, addresses: ['{pod}']}}]\n# Ann's\n");
    let document = state(2, &[], IpFamily::ALL.map(egress)) + &named;
    rig.client().put_state(document.replace("name: all", "name: bank")).unwrap();
    IpFamily::ALL.into_iter().for_each(|family| exchange(&rig, first_flow(family), 0));
    let socket = rig.directory.path().join("spillway.sock").display().to_string();
    let (entries, said) = sysdump(&rig, &socket, &["--anonymise"]);
    assert!(said.contains("Others stand in the place of addresses and names"), "{said}");
    assert_no_secrets(&entries);

    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let kernel = &entries["tools/uname_-a.txt"];
    assert!(kernel.contains(" this-host "), "{kernel}, of {host}");
    // Those of private ranges stay in them, and one in 65,536 might stay itself.
    let addresses = [pod, egress(IpFamily::V6)].into_iter().chain(IpFamily::ALL.map(server));
    let originals: Vec<String> = addresses.map(|address| address.to_string()).collect();
    let digits = "20010db8000200000000000000000003";
    for (name, text) in &entries {
        for original in originals.iter().map(String::as_str).chain([digits, "Ann's"]) {
            assert!(!text.contains(original), "{name} has {original}: {text}");
        }
    }
    let router = entries.iter().filter(|(name, _)| name.starts_with("router/"));
    for (name, text) in router {
        for word in ["shop", "till", "bank"] {
            assert!(!text.contains(word), "{name} has {word}: {text}");
        }
    }

    // What belonged together still does.
    let document = spillway_api::Document::parse(&entries["router/state.json"]).unwrap();
    let [policy] = &document.policies[..] else { panic!("{document:?}") };
    let [name] = &document.pod_names[..] else { panic!("{document:?}") };
    assert_eq!((policy.name.as_str(), name.name.as_str()), ("policy-1", "namespace-1/pod-1"));
    let flows: Vec<Flow> = serde_json::from_str(&entries["router/flows.json"]).unwrap();
    assert_eq!(flows.len(), 2);
    for flow in &flows {
        let Flow { original, reply, .. } = flow;
        assert!(policy.pods.contains(&original.source), "{flow:?}");
        let to = original.destination;
        assert!(policy.destinations.iter().any(|net| net.contains(&to)), "{flow:?}");
        assert!(policy.egress_list().contains(&reply.destination), "{flow:?}");
        assert_eq!(flow.policy, policy.name);
        let its_name = name.addresses.contains(&original.source).then_some(name.name.clone());
        assert_eq!(flow.pod, its_name, "{flow:?}");
        assert_eq!(flow.peer, document.tunnels[0].peers[0].address);
    }
    let on_host = &entries["tools/ip_-json_-pretty_address_show.txt"];
    for egress in policy.egress_list() {
        assert!(on_host.contains(&format!("\"local\": \"{egress}\"")), "{egress}: {on_host}");
    }
}
