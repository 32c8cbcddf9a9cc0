use libc::c_long;
use seccompiler::{BpfProgram, sock_filter};

use super::arm::{AARCH64, ARCHITECTURE, ARM, DENIED, LOAD, NUMBER, OPENAT};
use super::list::{COMMON, Entry, Own};
use super::*;

const OWN: Own = Own { process: 4711 };

#[test]
fn the_filter_is_short_and_no_system_call_is_on_the_list_twice() {
    let program = program(OWN).unwrap();
    assert!(program.len() < 400, "{} instructions", program.len());
    for mut numbers in [list::list().map(|entry| entry.number).collect::<Vec<_>>(), numbers_on_arm()] {
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }
}

#[test]
fn every_entry_says_why_it_is_there() {
    for entry in list::list().chain(arm::OWN) {
        assert!(entry.why.len() > 10, "{}", entry.name);
        assert!(entry.unseen.is_none_or(|unseen| unseen.len() > 10), "{}", entry.name);
    }
}

/// Numbers of 32-bit ARM (EABI): `arch/arm/tools/syscall.tbl` of the kernel.
const ON_ARM: [(&str, c_long); 26] = [
    ("restart_syscall", 0),
    ("read", 3),
    ("write", 4),
    ("close", 6),
    ("getpid", 20),
    ("brk", 45),
    ("getppid", 64),
    ("munmap", 91),
    ("mprotect", 125),
    ("writev", 146),
    ("nanosleep", 162),
    ("mremap", 163),
    ("rt_sigreturn", 173),
    ("rt_sigaction", 174),
    ("rt_sigprocmask", 175),
    ("sigaltstack", 186),
    ("madvise", 220),
    ("gettid", 224),
    ("tkill", 238),
    ("futex", 240),
    ("exit_group", 248),
    ("clock_gettime", 263),
    ("clock_nanosleep", 265),
    ("tgkill", 268),
    ("recvmsg", 297),
    ("getrandom", 384),
];

fn on_arm(name: &str) -> c_long {
    let own = arm::OWN.iter().find(|entry| entry.name == name).map(|entry| entry.number);
    let common = ON_ARM.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    own.or(common).unwrap_or_else(|| panic!("no number of {name} on ARM"))
}

fn numbers_on_arm() -> Vec<c_long> {
    COMMON.iter().chain(arm::OWN).map(|entry| on_arm(entry.name)).collect()
}

/// The filter as a build for 32-bit ARM makes it.
fn for_arm() -> BpfProgram {
    let entries = COMMON.iter().chain(arm::OWN).map(|entry| Entry { number: on_arm(entry.name), ..*entry });
    arm::retarget(compile(entries, OWN, "aarch64").unwrap()).unwrap()
}

#[cfg(target_arch = "arm")]
#[test]
fn the_numbers_of_this_table_are_those_of_the_c_library() {
    for entry in COMMON {
        assert_eq!(entry.number, on_arm(entry.name), "{}", entry.name);
    }
    assert_eq!(program(OWN).unwrap(), for_arm());
}

/// What the kernel does with a call: walks through a filter as it would, over its `struct seccomp_data`.
fn verdict(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let halves = arguments.iter().flat_map(|argument| [*argument & 0xffff_ffff, *argument >> 32]);
    let words: Vec<u32> =
        [number, architecture, 0, 0].into_iter().chain(halves.map(|half| u32::try_from(half).unwrap())).collect();
    let (mut at, mut loaded) = (0_usize, 0_u32);
    loop {
        let step = &program[at];
        at += 1;
        let skip = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            LOAD => loaded = words[usize::try_from(step.k).unwrap() / 4],
            0x15 => at += skip(loaded == step.k),
            0x25 => at += skip(loaded > step.k),
            0x35 => at += skip(loaded >= step.k),
            0x05 => at += usize::try_from(step.k).unwrap(),
            0x54 => loaded &= step.k,
            0x06 => return step.k,
            other => panic!("instruction {other:#x} is not known here"),
        }
    }
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const PID: u64 = 4711;

fn arm_verdict(name: &str, arguments: [u64; 6]) -> u32 {
    verdict(&for_arm(), ARM, u32::try_from(on_arm(name)).unwrap(), arguments)
}

#[test]
fn on_32_bit_arm_a_workers_calls_pass_and_the_same_with_other_arguments_do_not() {
    let abort = u64::from(libc::SIGABRT.cast_unsigned());
    for (name, good, bad) in [
        ("send", [0, 1, 2, 3, 0, 0], [4, 1, 2, 3, 0, 0]),
        ("recvmsg", [0, 9, 0, 0, 0, 0], [5, 9, 0, 0, 0, 0]),
        ("write", [2, 9, 9, 0, 0, 0], [0, 9, 9, 0, 0, 0]),
        ("mmap2", [0, 4096, 3, 0x22, 0xffff_ffff, 0], [0, 4096, 4, 0x22, 0xffff_ffff, 0]),
        ("mprotect", [4096, 4096, 3, 0, 0, 0], [4096, 4096, 7, 0, 0, 0]),
        ("madvise", [4096, 4096, 4, 0, 0, 0], [4096, 4096, 14, 0, 0, 0]),
        ("fcntl64", [3, 1034, 0, 0, 0, 0], [3, 1033, 0, 0, 0, 0]),
        ("futex", [4096, 129, 1, 0, 0, 0], [4096, 128, 1, 0, 0, 0]),
        ("tgkill", [PID, PID, abort, 0, 0, 0], [PID, PID, 9, 0, 0, 0]),
        ("tkill", [PID, abort, 0, 0, 0, 0], [PID + 1, abort, 0, 0, 0, 0]),
        ("rt_sigaction", [11, 0, 0, 8, 0, 0], [27, 0, 0, 8, 0, 0]),
    ] {
        assert_eq!((arm_verdict(name, good), arm_verdict(name, bad)), (ALLOW, KILL), "{name}");
        // An arm64 kernel hands over registers of 64 bits, of which such a process can set the lower half only.
        let above = |arguments: [u64; 6]| arguments.map(|argument| argument | 0xdead_beef_0000_0000);
        assert_eq!((arm_verdict(name, above(good)), arm_verdict(name, above(bad))), (ALLOW, KILL), "{name}");
    }
    // Those that may be made with any arguments.
    for name in
        ["_llseek", "read", "brk", "sigreturn", "rt_sigreturn", "clock_gettime64", "clock_gettime", "exit_group"]
    {
        assert_eq!(arm_verdict(name, [7; 6]), ALLOW, "{name}");
    }
}

#[test]
fn on_32_bit_arm_everything_else_ends_the_process() {
    let program = for_arm();
    let allowed = numbers_on_arm();
    for number in (0..1024).chain([0x0f_0001, 0x0f_0002, 0x0f_0005, 0x90_0003, u32::MAX]) {
        let is_listed = allowed.iter().any(|known| u32::try_from(*known) == Ok(number));
        let said = verdict(&program, ARM, number, [u64::MAX; 6]);
        let expected = if number == OPENAT { DENIED } else { KILL };
        assert!(is_listed || said == expected, "{number}: {said:#x}");
    }
    // tract asks for the core's name whenever it chooses a kernel, and does without.
    assert_eq!(DENIED, libc::SECCOMP_RET_ERRNO | 13);
    assert!(!allowed.contains(&c_long::from(OPENAT.cast_signed())));
    // The same numbers mean other calls on other machines.
    for architecture in [AARCH64, 0xc000_003e, 0x4000_0003, 40, 0] {
        for number in 0..512 {
            assert_eq!(verdict(&program, architecture, number, [0; 6]), KILL, "{architecture:#x} {number}");
        }
    }
}

#[test]
fn the_filter_for_arm_looks_at_lower_halves_only_and_is_the_one_for_aarch64_but_for_one_constant_and_openat() {
    let entries = COMMON.iter().chain(arm::OWN).map(|entry| Entry { number: on_arm(entry.name), ..*entry });
    let (before, mut after) = (compile(entries, OWN, "aarch64").unwrap(), for_arm());
    let number = after.iter().position(|step| step.code == LOAD && step.k == NUMBER).unwrap();
    let added: Vec<_> = after.drain(number + 1..number + 3).map(|step| step.k).collect();
    assert_eq!(added, [OPENAT, DENIED]);
    let different: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    assert_eq!((different.len(), before.len()), (1, after.len()));
    let upper = |step: &&sock_filter| step.code == LOAD && step.k >= 16 && step.k % 8 == 4;
    assert_eq!(after.iter().filter(upper).count(), 0);
    assert!(after.len() < 400, "{} instructions", after.len());
}

#[test]
fn a_program_that_is_not_what_it_is_thought_to_be_is_not_changed() {
    let step = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let (look, compare, end) = (step(LOAD, ARCHITECTURE), step(arm::EQUAL, AARCH64), step(arm::RETURN, KILL));
    let number = step(LOAD, NUMBER);
    assert!(arm::retarget(vec![look.clone(), compare.clone(), number.clone(), end.clone()]).is_some());
    for program in [
        vec![],
        vec![end.clone()],
        vec![look.clone(), compare.clone(), end.clone()],
        vec![look.clone(), compare.clone(), number.clone(), number.clone(), end.clone()],
        vec![look.clone(), step(arm::EQUAL, 0xc000_003e), number.clone(), end.clone()],
        vec![end.clone(), look.clone(), compare.clone(), number.clone()],
        vec![look.clone(), compare.clone(), look.clone(), compare.clone(), number.clone(), end.clone()],
        vec![look.clone(), compare.clone(), look.clone(), number.clone(), end.clone()],
        vec![look, compare.clone(), compare, number, end],
    ] {
        assert_eq!(arm::retarget(program.clone()), None, "{program:?}");
    }
}

#[test]
fn the_filter_of_this_machine_holds_on_this_machine_only() {
    let program = program(OWN).unwrap();
    let own = program[1].k;
    let write =
        list::list().find(|entry| entry.name == "write").map(|entry| u32::try_from(entry.number).unwrap()).unwrap();
    assert_eq!(verdict(&program, own, write, [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(&program, own, write, [1, 0, 0, 0, 0, 0]), KILL);
    assert_eq!(verdict(&program, own ^ 1, write, [2, 0, 0, 0, 0, 0]), KILL);
}
