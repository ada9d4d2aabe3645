//! What is written to /dev/nvme-fabrics, and what its answers mean. Pure.

use std::net::IpAddr;

use rustix::io::Errno;

use super::identity::Identity;
use super::sysfs::Controller;
use crate::fabrics::{ConnectError, Options, Target};

/// Seconds between keep-alives where the volume says 0: the kernel's own default, so that a loss is noticed within 8 s (I14).
const KEEP_ALIVE: i32 = 5;
/// I/O queues where the volume says nothing: more of them use more of the appliance, and hardly make it faster.
const MOST_QUEUES: u32 = 4;
const LONGEST_NQN: usize = 223;

/// The one line that is written. Host identity and times are always given: what is left out the kernel makes up.
///
/// # Errors
/// On anything that would read as another option, or that kernels refuse.
pub(super) fn connect_line(to: &Target, identity: &Identity, cpus: u32) -> Result<String, String> {
    check_nqn(&to.nqn)?;
    let address: IpAddr = to.address.parse().map_err(|_| {
        format!(
            "`{}` is not an IP address: give one in spec.storage.address of the RdsServer, or in spec.connection.address of the RdsVolume",
            to.address
        )
    })?;
    if to.port == 0 {
        return Err("port 0 cannot be connected".to_owned());
    }
    let Options {
        ctrl_loss_tmo,
        reconnect_delay,
        keep_alive_tmo,
        io_queues,
    } = to.options;
    for (what, value, least) in [
        ("ctrlLossTmo", ctrl_loss_tmo, -1),
        ("reconnectDelay", reconnect_delay, 1),
        ("keepAliveTmo", keep_alive_tmo, 0),
    ] {
        if value < least {
            return Err(format!("{what} is {value}, the least is {least}"));
        }
    }
    let queues = io_queues.unwrap_or(MOST_QUEUES.min(cpus)).max(1);
    let keep_alive = if keep_alive_tmo == 0 {
        KEEP_ALIVE
    } else {
        keep_alive_tmo
    };
    Ok(format!(
        "transport=tcp,traddr={address},trsvcid={},nqn={},hostnqn={},hostid={},ctrl_loss_tmo={ctrl_loss_tmo},\
         reconnect_delay={reconnect_delay},keep_alive_tmo={keep_alive},nr_io_queues={queues}",
        to.port, to.nqn, identity.host_nqn, identity.host_id,
    ))
}

/// No kernel checks an NQN, and a comma in it would begin the next option.
pub(super) fn check_nqn(nqn: &str) -> Result<(), String> {
    let plain = nqn.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if nqn.starts_with("nqn.") && plain && nqn.len() <= LONGEST_NQN {
        Ok(())
    } else {
        Err(format!(
            "{nqn:?} is no NQN: `nqn.`, then printable ASCII without comma, {LONGEST_NQN} bytes at most"
        ))
    }
}

/// The instance in `instance=0,cntlid=1`, for the log.
pub(super) fn instance(answer: &str) -> Option<u32> {
    let fields = answer.trim().split(',');
    fields
        .filter_map(|f| f.strip_prefix("instance="))
        .find_map(|n| n.parse().ok())
}

/// What a refused write means. `others` are the controllers of this host, for what the kernel does not tell.
pub(super) fn refusal(e: Errno, to: &Target, identity: &Identity, others: &[Controller]) -> ConnectError {
    let place = format!("{} at {}:{}", to.nqn, to.address, to.port);
    let other = |text: &str| ConnectError::Other(place.clone(), text.to_owned());
    let unreachable = |text: &str| ConnectError::Unreachable(place.clone(), text.to_owned());
    match e {
        // The kernel has one errno for both, and says which only in its log.
        Errno::IO => ConnectError::Refused(to.nqn.clone()),
        Errno::CONNREFUSED => unreachable("connection refused, nothing listens on the NVMe/TCP port"),
        Errno::TIMEDOUT => unreachable("no answer in time"),
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN => unreachable("no route to the appliance"),
        Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN | Errno::CONNABORTED => {
            unreachable("the connection was closed while it was set up")
        }
        Errno::INVAL => other(&invalid(identity, others)),
        Errno::NODEV => other("the transport has no device: load kernel module nvme-tcp"),
        Errno::NOKEY => other("the appliance asks for authentication, and no secret is set"),
        Errno::KEYREJECTED => other("authentication failed"),
        Errno::ACCESS | Errno::PERM => other("the kernel does not let the agent: it has to run privileged"),
        e => other(&format!(
            "{e} (errno {}); see the kernel log of the node",
            e.raw_os_error()
        )),
    }
}

fn invalid(identity: &Identity, others: &[Controller]) -> String {
    let (nqn, id) = (Some(identity.host_nqn.as_str()), Some(identity.host_id.as_str()));
    // Kernels from 6.12 on want the two to go together on the whole host.
    let clash = others.iter().find(|c| {
        let (same_nqn, same_id) = (c.host_nqn.as_deref() == nqn, c.host_id.as_deref() == id);
        c.host_nqn.is_some() && c.host_id.is_some() && same_nqn != same_id
    });
    match clash {
        Some(c) => format!(
            "the kernel wants host NQN and host ID to go together, and {} ({}) shares one of them with this agent and not the \
             other ({}, {}): end that connection, or move host-identity.json out of --state-dir and restart the agent",
            c.name,
            c.nqn,
            c.host_nqn.as_deref().unwrap_or_default(),
            c.host_id.as_deref().unwrap_or_default(),
        ),
        None => "the kernel refused the options; see the kernel log of the node, and whether module nvme-tcp is loaded"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            machine_id: "m".into(),
            host_nqn: "nqn.2014-08.org.nvmexpress:uuid:1".into(),
            host_id: "1".into(),
        }
    }

    fn target() -> Target {
        Target {
            nqn: "nqn.2000-02.com.mikrotik:pvc-1".into(),
            address: "10.9.0.2".into(),
            port: 4420,
            options: Options::default(),
        }
    }

    #[test]
    fn host_and_times_are_always_said() {
        let line = connect_line(&target(), &identity(), 64).unwrap();
        assert_eq!(
            line,
            "transport=tcp,traddr=10.9.0.2,trsvcid=4420,nqn=nqn.2000-02.com.mikrotik:pvc-1,\
             hostnqn=nqn.2014-08.org.nvmexpress:uuid:1,hostid=1,ctrl_loss_tmo=-1,reconnect_delay=5,keep_alive_tmo=5,nr_io_queues=4"
        );
        let mut to = target();
        to.address = "fd00::2".into();
        to.options = Options {
            ctrl_loss_tmo: 600,
            reconnect_delay: 2,
            keep_alive_tmo: 7,
            io_queues: Some(9),
        };
        let line = connect_line(&to, &identity(), 2).unwrap();
        assert!(line.contains("traddr=fd00::2,"), "{line}");
        assert!(
            line.ends_with("ctrl_loss_tmo=600,reconnect_delay=2,keep_alive_tmo=7,nr_io_queues=9"),
            "{line}"
        );
        assert!(
            connect_line(&target(), &identity(), 1)
                .unwrap()
                .ends_with("nr_io_queues=1")
        );
    }

    #[test]
    fn nothing_slips_another_option_in() {
        let long = format!("nqn.{}", "x".repeat(220));
        for nqn in [
            "",
            "pvc-1",
            "nqn.a,duplicate_connect",
            "nqn.a b",
            "nqn.a\n",
            "nqn.\u{e4}",
            long.as_str(),
        ] {
            let to = Target {
                nqn: nqn.into(),
                ..target()
            };
            assert!(
                connect_line(&to, &identity(), 1).unwrap_err().contains("is no NQN"),
                "{nqn}"
            );
        }
        for address in ["", "rds.example", "10.9.0.2,hostnqn=x", "10.9.0.2 "] {
            let to = Target {
                address: address.into(),
                ..target()
            };
            assert!(connect_line(&to, &identity(), 1).is_err(), "{address}");
        }
        for (ctrl_loss_tmo, reconnect_delay, keep_alive_tmo) in [(-2, 5, 0), (-1, 0, 0), (-1, 5, -1)] {
            let options = Options {
                ctrl_loss_tmo,
                reconnect_delay,
                keep_alive_tmo,
                io_queues: None,
            };
            assert!(connect_line(&Target { options, ..target() }, &identity(), 1).is_err());
        }
    }

    #[test]
    fn answers() {
        assert_eq!(instance("instance=12,cntlid=1\n"), Some(12));
        for bad in ["", "cntlid=1", "instance=", "instance=x,cntlid=1"] {
            assert_eq!(instance(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_errno_says_what_to_do_and_eio_names_both_candidates() {
        let say = |e| refusal(e, &target(), &identity(), &[]);
        let both = say(Errno::IO).to_string();
        assert!(
            both.contains("no such subsystem") && both.contains("does not let this host in"),
            "{both}"
        );
        for e in [
            Errno::CONNREFUSED,
            Errno::TIMEDOUT,
            Errno::NETUNREACH,
            Errno::HOSTUNREACH,
        ] {
            assert!(matches!(say(e), ConnectError::Unreachable(..)), "{e}");
        }
        for (e, word) in [
            (Errno::INVAL, "kernel log"),
            (Errno::NODEV, "nvme-tcp"),
            (Errno::NOKEY, "authentication"),
            (Errno::PERM, "privileged"),
            (Errno::NOMEM, "errno 12"),
        ] {
            let said = say(e).to_string();
            assert!(said.contains(word) && said.contains("pvc-1 at 10.9.0.2:4420"), "{said}");
        }
    }

    #[test]
    fn a_clash_of_host_names_is_explained() {
        let other = |host_nqn: Option<&str>, host_id: Option<&str>| Controller {
            name: "nvme7".into(),
            instance: "nvme7/1".into(),
            nqn: "nqn.2026-01.org.example:root".into(),
            state: "live".into(),
            transport: "tcp".into(),
            address: String::new(),
            host_nqn: host_nqn.map(str::to_owned),
            host_id: host_id.map(str::to_owned),
        };
        let ours = identity();
        let said = |c: Controller| refusal(Errno::INVAL, &target(), &ours, &[c]).to_string();
        for clash in [other(Some("nqn.x"), Some("1")), other(Some(&ours.host_nqn), Some("2"))] {
            let text = said(clash);
            assert!(text.contains("nvme7") && text.contains("go together"), "{text}");
        }
        for fine in [
            other(Some("nqn.x"), Some("2")),
            other(Some(&ours.host_nqn), Some("1")),
            other(None, Some("1")),
        ] {
            assert!(!said(fine).contains("go together"));
        }
    }
}
