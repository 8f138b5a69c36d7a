//! Which system calls a confined command may make, as a program for the kernel's filter.
//!
//! A deny list, closed towards the future: what reaches beyond the process (mounts, namespaces, other processes' memory,
//! keys, kernel modules, clocks, raw devices) is refused, what is not named is allowed, and a number that was not known
//! when this was written does not exist ([`NUMBER_MAX`]). Calls of another architecture end the process: their numbers
//! mean something else.
//!
//! The kernel gives a filter 64-bit arguments and uses 32 bits of some of them, so only those are compared: a high bit
//! set by hand must not change what is seen.

use libc::{c_long, sock_filter};

/// What else than the filter keeps a command in, which says what the filter has to do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// It may make sockets of IPv4 and IPv6, and ask for the machine's addresses: it has a network of its own, or may
    /// have the host's.
    pub(super) internet: bool,
    /// It sees only its own files. Otherwise it may not make local sockets, which the host's services listen to, nor
    /// change modes and owners by a path, which Landlock lets anyone do to what is his.
    pub(super) own_files: bool,
    /// It sees only its own shared memory.
    pub(super) own_memory: bool,
}

/// Highest system call number that this list was checked against (Linux 6.18, `file_setattr`); anything above does not
/// exist for a command, as on a kernel that is older.
const NUMBER_MAX: u32 = 469;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

/// Where in `struct seccomp_data` the kernel writes what.
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
const AT_ARGUMENTS: u32 = 16;

/// Calls of the x32 variant carry this bit.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// Every flag of `clone` and `unshare` that makes a namespace, time excepted, which `clone` cannot.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
/// `CLONE_NEWTIME` of linux/sched.h: the same bit is part of the exit signal of `clone`, so only `unshare` means it.
const NEW_TIME: u32 = 0x80;

/// `TIOCSTI` types into the terminal, `TIOCLINUX` pastes into a console: both reach whoever reads there next.
const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541C];

/// What `personality` may be asked for: nothing new, 32-bit names, and what is in force.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];

/// Calls that are refused with `EPERM`.
const REFUSED: &[c_long] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    libc::SYS_setns,
    // Files by what is not a path.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The kernel's own.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_lookup_dcookie,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_vhangup,
    // Keys are kept for a user, not for a process.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine's time and names.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];
/// The C library's crate does not name these everywhere; the first two have one number on every architecture.
const OPEN_TREE_ATTR: c_long = 467;
const QUOTACTL_FD: c_long = 443;
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: c_long = 320;
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: c_long = 294;

/// Calls that are answered with `ENOSYS`, so that programs do without: what they ask for is in memory, where a filter
/// cannot look (`clone3`), or goes past the filter altogether (`io_uring`).
const ABSENT: &[c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Calls that change what a file is, by its path. (`utimensat` is left: with no path it is how a descriptor's times are
/// set, and a wrong time harms nobody.)
const FILE_MODES: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
];
const FCHMODAT2: c_long = 452;

/// Calls that reach shared memory, semaphores and queues by a number or a name that everyone has.
const SHARED_MEMORY: &[c_long] =
    &[libc::SYS_shmget, libc::SYS_shmat, libc::SYS_semget, libc::SYS_msgget, libc::SYS_mq_open, libc::SYS_mq_unlink];

/// The filter's program.
pub(super) fn program(surroundings: Surroundings) -> Vec<sock_filter> {
    let Surroundings { internet, own_files, own_memory } = surroundings;
    let mut program = Program(Vec::with_capacity(2 * (REFUSED.len() + ABSENT.len()) + 64));
    program.load(AT_ARCHITECTURE);
    program.skip_if_equal(ARCHITECTURE, 1);
    program.answer(libc::SECCOMP_RET_KILL_PROCESS);
    program.load(AT_NUMBER);
    #[cfg(target_arch = "x86_64")]
    program.answer_if(libc::BPF_JSET, X32_BIT, libc::SECCOMP_RET_KILL_PROCESS);
    program.answer_if(libc::BPF_JGT, NUMBER_MAX, errno(libc::ENOSYS));
    for number in ABSENT {
        program.answer_if(libc::BPF_JEQ, *number as u32, errno(libc::ENOSYS));
    }
    let of_others = if own_files { &[] } else { FILE_MODES };
    let shared = if own_memory { &[] } else { SHARED_MEMORY };
    for number in REFUSED.iter().chain(of_others).chain(shared) {
        program.answer_if(libc::BPF_JEQ, *number as u32, errno(libc::EPERM));
    }
    program.on(libc::SYS_clone, |call| {
        call.load(AT_ARGUMENTS);
        call.answer_if(libc::BPF_JSET, NEW_NAMESPACES, errno(libc::EPERM));
    });
    program.on(libc::SYS_unshare, |call| {
        call.load(AT_ARGUMENTS);
        call.answer_if(libc::BPF_JSET, NEW_NAMESPACES | NEW_TIME, errno(libc::EPERM));
    });
    program.on(libc::SYS_ioctl, |call| {
        call.load(AT_ARGUMENTS + 8);
        for request in TERMINAL_INPUT {
            call.answer_if(libc::BPF_JEQ, request, errno(libc::EPERM));
        }
    });
    program.on(libc::SYS_personality, |call| {
        call.load(AT_ARGUMENTS);
        for allowed in PERSONALITIES {
            call.answer_if(libc::BPF_JEQ, allowed, libc::SECCOMP_RET_ALLOW);
        }
        call.answer(errno(libc::EPERM));
    });
    program.on(libc::SYS_socket, |call| {
        call.load(AT_ARGUMENTS);
        if own_files {
            call.answer_if(libc::BPF_JEQ, libc::AF_UNIX as u32, libc::SECCOMP_RET_ALLOW);
        }
        if internet {
            call.answer_if(libc::BPF_JEQ, libc::AF_INET as u32, libc::SECCOMP_RET_ALLOW);
            call.answer_if(libc::BPF_JEQ, libc::AF_INET6 as u32, libc::SECCOMP_RET_ALLOW);
            // Of netlink only routes, which tell a program the addresses it has.
            call.skip_if_equal(libc::AF_NETLINK as u32, 1);
            call.answer(errno(libc::EAFNOSUPPORT));
            call.load(AT_ARGUMENTS + 16);
            call.answer_if(libc::BPF_JEQ, libc::NETLINK_ROUTE as u32, libc::SECCOMP_RET_ALLOW);
        }
        call.answer(errno(libc::EAFNOSUPPORT));
    });
    program.answer(libc::SECCOMP_RET_ALLOW);
    program.0
}

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// Instructions of the kernel's classic filter machine.
struct Program(Vec<sock_filter>);

impl Program {
    fn push(&mut self, code: u32, skip: (u8, u8), k: u32) {
        self.0.push(sock_filter { code: code as u16, jt: skip.0, jf: skip.1, k });
    }

    /// Loads 32 bits; on our architectures the low half of an argument comes first.
    fn load(&mut self, at: u32) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (0, 0), at);
    }

    fn answer(&mut self, action: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, (0, 0), action);
    }

    fn answer_if(&mut self, test: u32, k: u32, action: u32) {
        self.push(libc::BPF_JMP | test | libc::BPF_K, (0, 1), k);
        self.answer(action);
    }

    fn skip_if_equal(&mut self, k: u32, n_skipped: u8) {
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (n_skipped, 0), k);
    }

    /// What is done when the call has this number; afterwards the number is loaded again.
    fn on(&mut self, number: c_long, write: impl FnOnce(&mut Program)) {
        let mut call = Program(Vec::new());
        write(&mut call);
        call.load(AT_NUMBER);
        let n_skipped = u8::try_from(call.0.len()).expect("a call's own part is a few instructions");
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (0, n_skipped), number as u32);
        self.0.append(&mut call.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: the machine of linux/filter.h, as far as the program uses it.
    fn answer(program: &[sock_filter], architecture: u32, number: c_long, arguments: [u64; 3]) -> u32 {
        let mut data = vec![number as u32, architecture, 0, 0];
        data.extend(arguments.iter().flat_map(|argument| [*argument as u32, (argument >> 32) as u32]));
        let (mut at, mut loaded) = (0, 0);
        loop {
            let one = &program[at];
            at += 1;
            let code = u32::from(one.code);
            let jumps = code & 0x07 == libc::BPF_JMP;
            match code {
                _ if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => loaded = data[one.k as usize / 4],
                _ if code == libc::BPF_RET | libc::BPF_K => return one.k,
                _ if jumps => {
                    let holds = match code & 0xf0 {
                        libc::BPF_JEQ => loaded == one.k,
                        libc::BPF_JGT => loaded > one.k,
                        libc::BPF_JSET => loaded & one.k != 0,
                        other => panic!("test {other:x}"),
                    };
                    at += usize::from(if holds { one.jt } else { one.jf });
                }
                other => panic!("instruction {other:x}"),
            }
        }
    }

    #[track_caller]
    fn check(surroundings: Surroundings, number: c_long, arguments: [u64; 3], expected: u32) {
        assert_eq!(
            answer(&program(surroundings), ARCHITECTURE, number, arguments),
            expected,
            "{number} {arguments:x?}"
        );
    }

    /// Everything is its own.
    const OWN: Surroundings = Surroundings { internet: true, own_files: true, own_memory: true };
    /// Only the filter is there.
    const ALONE: Surroundings = Surroundings { internet: false, own_files: false, own_memory: false };

    const HIGH: u64 = 1 << 40;

    #[test]
    fn everyday_calls_pass_and_those_that_reach_out_do_not() {
        for number in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_futex, libc::SYS_memfd_create] {
            check(OWN, number, [0; 3], libc::SECCOMP_RET_ALLOW);
        }
        for number in REFUSED {
            check(OWN, *number, [0; 3], errno(libc::EPERM));
        }
        for number in ABSENT {
            check(OWN, *number, [0; 3], errno(libc::ENOSYS));
        }
        check(OWN, c_long::from(NUMBER_MAX), [0; 3], libc::SECCOMP_RET_ALLOW);
        check(OWN, c_long::from(NUMBER_MAX) + 1, [0; 3], errno(libc::ENOSYS));
    }

    #[test]
    fn another_architecture_ends_the_process() {
        let program = program(OWN);
        // i386 and 32-bit ARM: their number 1 is exit.
        for foreign in [0x4000_0003, 0x4000_0028] {
            assert_eq!(answer(&program, foreign, 1, [0; 3]), libc::SECCOMP_RET_KILL_PROCESS);
        }
        #[cfg(target_arch = "x86_64")]
        assert_eq!(
            answer(&program, ARCHITECTURE, libc::SYS_read | c_long::from(X32_BIT), [0; 3]),
            libc::SECCOMP_RET_KILL_PROCESS
        );
    }

    #[test]
    fn what_no_namespace_holds_is_held_by_the_filter() {
        let alone = program(ALONE);
        for number in FILE_MODES.iter().chain(SHARED_MEMORY) {
            assert_eq!(answer(&alone, ARCHITECTURE, *number, [0; 3]), errno(libc::EPERM), "{number}");
            check(OWN, *number, [0; 3], libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn flags_are_looked_at_in_the_bits_that_the_kernel_uses() {
        let (eperm, allow) = (errno(libc::EPERM), libc::SECCOMP_RET_ALLOW);
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
        check(OWN, libc::SYS_clone, [thread, 0, 0], allow);
        check(OWN, libc::SYS_clone, [libc::SIGCHLD as u64 | HIGH, 0, 0], allow);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET] {
            check(OWN, libc::SYS_clone, [flag as u64 | thread, 0, 0], eperm);
            check(OWN, libc::SYS_unshare, [flag as u64 | HIGH, 0, 0], eperm);
        }
        check(OWN, libc::SYS_unshare, [u64::from(NEW_TIME), 0, 0], eperm);
        check(OWN, libc::SYS_unshare, [libc::CLONE_FILES as u64, 0, 0], allow);
        for request in TERMINAL_INPUT {
            check(OWN, libc::SYS_ioctl, [0, u64::from(request), 0], eperm);
            check(OWN, libc::SYS_ioctl, [0, u64::from(request) | HIGH, 0], eperm);
        }
        check(OWN, libc::SYS_ioctl, [0, libc::TCGETS, 0], allow);
        check(OWN, libc::SYS_personality, [u64::from(u32::MAX), 0, 0], allow);
        check(OWN, libc::SYS_personality, [libc::ADDR_NO_RANDOMIZE as u64, 0, 0], eperm);
    }

    #[test]
    fn sockets_are_of_the_families_that_are_open() {
        let (no, allow) = (errno(libc::EAFNOSUPPORT), libc::SECCOMP_RET_ALLOW);
        let (unix, inet) = (libc::AF_UNIX as u64, libc::AF_INET as u64);
        let local_only = Surroundings { internet: false, ..OWN };
        for (surroundings, local, internet) in [(ALONE, no, no), (local_only, allow, no), (OWN, allow, allow)] {
            check(surroundings, libc::SYS_socket, [unix, 1, 0], local);
            for family in [inet, inet | HIGH, libc::AF_INET6 as u64] {
                check(surroundings, libc::SYS_socket, [family, 1, 0], internet);
            }
            check(surroundings, libc::SYS_socket, [libc::AF_NETLINK as u64, 3, 0], internet);
            for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_TIPC, libc::AF_BLUETOOTH] {
                check(surroundings, libc::SYS_socket, [family as u64, 1, 0], no);
            }
            let audit = libc::NETLINK_AUDIT as u64;
            check(surroundings, libc::SYS_socket, [libc::AF_NETLINK as u64, 3, audit], no);
        }
    }
}
