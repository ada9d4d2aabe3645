//! What ssh is told: pinned host keys under an alias, and a configuration that nothing else adds to. And what its log says back.
//!
//! Invariant: no value can add a line to the configuration.

use tempfile::TempDir;

use super::target::Target;
use super::transport::NotSent;

/// Seconds after which an unused master ends; far longer than the pause between two listings.
const PERSIST: u32 = 90;
/// The name under which the pinned keys are kept, whatever the address.
pub(super) const ALIAS: &str = "rds";

/// The pinned keys under our alias: `[host] type base64 [comment]` or without host.
pub(super) fn known_hosts(pinned: &[String]) -> Result<String, NotSent> {
    let mut lines = String::new();
    for line in pinned.iter().flat_map(|text| text.lines()).map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().take(3).collect();
        let is_type = |w: &str| w.starts_with("ssh-") || w.starts_with("ecdsa-") || w.starts_with("sk-");
        let at = words.iter().take(2).position(|w| is_type(w));
        let key = at.and_then(|at| Some((words[at], *words.get(at + 1)?)));
        let Some((kind, key)) = key.filter(|_| !line.starts_with('@')) else {
            return Err(NotSent::HostKey(
                "a line of the pinned host keys is not `[host] type key`".to_owned(),
            ));
        };
        lines.push_str(&format!("{ALIAS} {kind} {key}\n"));
    }
    if lines.is_empty() {
        return Err(NotSent::HostKey("no host key is pinned".to_owned()));
    }
    Ok(lines)
}

/// Everything ssh needs to know; nothing comes from the user's or the system's configuration.
pub(super) fn ssh_config(target: &Target, dir: &TempDir) -> Result<String, NotSent> {
    let plain = |s: &str, extra: &str| {
        let ok = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c) || extra.contains(c);
        !s.is_empty() && s.chars().all(ok) && !s.starts_with('-')
    };
    let Target {
        address,
        port,
        user,
        limits,
        ..
    } = target;
    let (dir, connect) = (
        dir.path().display().to_string(),
        limits.connect_timeout.as_secs().max(1),
    );
    if !plain(address, "") || !plain(user, "@+") || dir.contains(['"', '%', '\n']) {
        return Err(NotSent::Unreachable(
            "the address or the user has characters that do not belong there".to_owned(),
        ));
    }
    // RouterOS may leave keepalive requests unanswered: they must never end a connection on which a command may still run.
    let alive = limits.command_timeout.as_secs() / 20 + 2;
    Ok(format!(
        "Host {ALIAS}
HostName {address}
Port {port}
User {user}
HostKeyAlias {ALIAS}
UserKnownHostsFile \"{dir}/known_hosts\"
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
UpdateHostKeys no
VerifyHostKeyDNS no
CheckHostIP no
IdentityFile \"{dir}/key\"
IdentitiesOnly yes
IdentityAgent none
BatchMode yes
PreferredAuthentications publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
ClearAllForwardings yes
ForwardAgent no
PermitLocalCommand no
ConnectTimeout {connect}
ServerAliveInterval 20
ServerAliveCountMax {alive}
ControlPath \"{dir}/master\"
ControlPersist {PERSIST}
"
    ))
}

/// What ssh's log says about a failed connect.
pub(super) fn why(log: &str) -> NotSent {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let last = lines.last().copied().unwrap_or("ssh failed without a word").to_owned();
    let any = |what: &str| lines.iter().find(|l| l.contains(what)).map(|l| (*l).to_owned());
    if any("Host key verification failed").is_some() || any("HOST IDENTIFICATION HAS CHANGED").is_some() {
        let known = any("host key is known").or_else(|| any("host key for").filter(|l| l.contains("changed")));
        NotSent::HostKey(known.unwrap_or(last))
    } else if let Some(line) = any("Permission denied (").or_else(|| any("Too many authentication failures")) {
        NotSent::Auth(line)
    } else {
        NotSent::Unreachable(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_keys_are_taken_with_and_without_host() {
        let pinned = [
            "# comment\nssh-rsa AAAA one".to_owned(),
            "[10.0.0.1]:22 ssh-ed25519 BBBB\n\n".to_owned(),
        ];
        assert_eq!(
            known_hosts(&pinned).unwrap(),
            "rds ssh-rsa AAAA\nrds ssh-ed25519 BBBB\n"
        );
        for bad in ["", "nonsense", "@revoked * ssh-rsa AAAA", "ssh-rsa"] {
            assert!(
                matches!(known_hosts(&[bad.to_owned()]), Err(NotSent::HostKey(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_log_of_ssh_is_told_apart() {
        let changed = "@@@\nWARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key for rds has changed and you have \
                       requested strict checking.\nHost key verification failed.\n";
        assert!(matches!(why(changed), NotSent::HostKey(_)));
        assert!(matches!(
            why("csi@10.0.0.1: Permission denied (publickey).\n"),
            NotSent::Auth(_)
        ));
        let refused = "ssh: connect to host 10.0.0.1 port 22: Connection refused\r\n";
        assert_eq!(why(refused), NotSent::Unreachable(refused.trim().to_owned()));
        assert!(matches!(why(""), NotSent::Unreachable(_)));
    }

    #[test]
    fn no_value_can_add_a_line_to_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let target = |address: &str, user: &str| Target {
            name: "a".into(),
            address: address.into(),
            port: 22,
            user: user.into(),
            private_key: "".to_owned().into(),
            host_keys: vec![],
            base_path: "/pool/x".parse().unwrap(),
            limits: Default::default(),
        };
        assert!(ssh_config(&target("fe80::1", "admin+cet512w"), &dir).is_ok());
        for (address, user) in [
            ("a\nProxyCommand x", "u"),
            ("a", "u\nx"),
            ("", "u"),
            ("-oX", "u"),
            ("a b", "u"),
            ("a", "%u"),
        ] {
            assert!(ssh_config(&target(address, user), &dir).is_err(), "{address} {user}");
        }
    }
}
