//! Does a real worker process compute, and does nothing that a model does to it reach the agent?
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "shared with tests that need more of it")]
#[path = "support/onnx.rs"]
mod onnx;
#[path = "support/rig.rs"]
mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use neap::fault::Code;
use neap::sys::clock;
use neap::tensor::Tensor;
use neap::worker::cgroup::Cgroups;
use neap::worker::gate::Gate;
use neap::worker::handle::Event;

use self::onnx::{FLOAT, Graph, INT64, external_tensor, floats, integers, ints, node, relu, tensor, value, with};
use self::rig::{MEGABYTE, Model, Rig, input};

/// More work, with a large matrix, than any test waits for.
fn endless() -> Model {
    products(400)
}

/// `y = x · x · x · …`, so many times.
fn products(products: usize) -> Model {
    let name = |at: usize| if at == products { "y".to_owned() } else { format!("p{at}") };
    let mut nodes = vec![node("MatMul", &["x", "x"], &[&name(1)])];
    nodes.extend((1..products).map(|at| node("MatMul", &["x", &name(at)], &[&name(at + 1)])));
    let square = |name| value(name, FLOAT, &[0, 0]);
    let graph = Graph { nodes, constants: vec![], inputs: vec![square("x")], outputs: vec![square("y")] };
    Model::new(graph.file()).ports("x FP32 -1,-1", "y FP32 -1,-1")
}

fn large_square() -> Vec<Tensor> {
    vec![Tensor::f32s("x", vec![1200, 1200], &vec![0.01; 1200 * 1200]).unwrap()]
}

#[tokio::test]
async fn a_worker_computes_and_reports_what_it_cost() {
    let mut rig = Rig::start().await;
    let output = rig.ask(&Model::new(relu().file()), input(&[-1.0, 2.0, -3.0])).await.unwrap();
    assert_eq!(output.tensors, [Tensor::f32s("y", vec![3], &[0.0, 2.0, 0.0]).unwrap()]);
    assert!(output.load_cpu.is_some_and(|cpu| cpu > Duration::ZERO));
    assert!(output.cpu > Duration::ZERO && output.wall > Duration::ZERO && output.peak_bytes > 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_plan_is_loaded_once_for_each_shape() {
    let mut rig = Rig::start().await;
    let model = Model::new(relu().file());
    let mut loaded = Vec::new();
    for values in [&[1.0, 2.0][..], &[3.0, 4.0], &[5.0], &[6.0, 7.0], &[8.0]] {
        let output = rig.ask(&model, input(values)).await.unwrap();
        assert_eq!(output.tensors[0].to_f32s().unwrap(), values);
        loaded.push(output.load_cpu.is_some());
    }
    assert_eq!(loaded, [true, false, true, false, false]);
    rig.stop().await;
}

#[tokio::test]
async fn defaults_fill_inputs_that_a_request_leaves_out() {
    let mut graph = relu();
    graph.nodes = vec![node("Add", &["x", "bias"], &["y"])];
    graph.inputs.push(value("bias", FLOAT, &[2]));
    let model = Model::new(graph.file()).ports("x FP32 -1; bias FP32 2 = 0.5", "y FP32 -1");
    let mut rig = Rig::start().await;
    let output = rig.ask(&model, input(&[1.0, 2.0])).await.unwrap();
    assert_eq!(output.tensors[0].to_f32s().unwrap(), [1.5, 2.5]);
    rig.stop().await;
}

#[tokio::test]
async fn two_items_are_taken_at_once_and_a_third_is_refused() {
    let mut rig = Rig::start().await;
    let model = Model::new(relu().file());
    assert_eq!(rig.handle.room(), 2);
    rig.handle.run(rig.work(&model, 1, input(&[1.0]))).unwrap();
    rig.handle.run(rig.work(&model, 1, input(&[2.0]))).unwrap();
    assert_eq!(rig.handle.room(), 0);
    assert!(rig.handle.run(rig.work(&model, 1, input(&[3.0]))).is_err());
    for value in [1.0, 2.0] {
        let output = rig.answer().await.unwrap();
        assert_eq!(output.tensors[0].to_f32s().unwrap(), [value]);
    }
    assert_eq!(rig.handle.room(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn the_same_file_under_another_manifest_follows_the_manifest() {
    let mut rig = Rig::start().await;
    let file = relu().file();
    rig.ask(&Model::new(file.clone()), input(&[1.0])).await.unwrap();
    let fixed = Model::new(file).ports("x FP32 4", "y FP32 4");
    let fault = rig.ask(&fixed, input(&[1.0])).await.unwrap_err();
    assert_eq!(fault.code, Code::InputShape);
    assert_eq!(rig.ask(&fixed, input(&[1.0; 4])).await.unwrap().tensors[0].shape, [4]);
    rig.stop().await;
}

/// Models that end in a fault of the item; the worker lives on.
fn refused() -> Vec<(&'static str, Model, Vec<Tensor>, Code)> {
    let good = relu().file();
    let half = good[..good.len() / 2].to_vec();
    let mut foreign = relu();
    foreign.nodes = vec![node("Frobnicate", &["x"], &["y"])];
    let mut external = relu();
    external.nodes = vec![node("Add", &["x", "w"], &["y"])];
    external.constants = vec![external_tensor("w", &[1], "/etc/passwd")];
    let mut wide = relu();
    wide.inputs.push(value("z", FLOAT, &[0]));
    // Divides by a zero that is computed while it is optimised, and by an input zero while it runs: both panic in the
    // engine. A plain constant would not come so far.
    let integers = |names: &[&str]| names.iter().map(|name| value(name, INT64, &[1])).collect::<Vec<_>>();
    let constant_zero = Graph {
        nodes: vec![
            node("Sub", &["one", "one"], &["zero"]),
            node("Div", &["one", "zero"], &["q"]),
            node("Add", &["x", "q"], &["y"]),
        ],
        constants: vec![tensor("one", INT64, &[1], &ints(&[1]))],
        inputs: integers(&["x"]),
        outputs: integers(&["y"]),
    };
    let input_zero = Graph {
        nodes: vec![node("Div", &["x", "z"], &["y"])],
        constants: vec![],
        inputs: integers(&["x", "z"]),
        outputs: integers(&["y"]),
    };
    let lonely_output = Graph { outputs: vec![value("y", FLOAT, &[0])], nodes: vec![], ..relu() };
    let integer = |name, value| Tensor::new(name, neap::tensor::DataType::Int64, vec![1], ints(&[value])).unwrap();
    let x = || input(&[1.0]);
    vec![
        ("text", Model::new(b"this is no model".to_vec()), x(), Code::ModelParse),
        ("empty", Model::new(vec![]), x(), Code::ModelParse),
        ("truncated", Model::new(half), x(), Code::ModelParse),
        ("an output that nothing produces", Model::new(lonely_output.file()), x(), Code::ModelGraph),
        ("another digest", Model::new(good.clone()).digest([7; 32]), x(), Code::ModelHashMismatch),
        ("an unknown operator", Model::new(foreign.file()), x(), Code::ModelUnsupportedOp),
        ("data in another file", Model::new(external.file()), x(), Code::ModelExternalData),
        ("an undeclared input", Model::new(wide.file()), x(), Code::ModelShape),
        ("a wrong output", Model::new(good.clone()).ports("x FP32 -1", "nothing FP32 -1"), x(), Code::ModelShape),
        ("a wrong input name", Model::new(good.clone()), vec![Tensor::bytes("other", b"")], Code::InputName),
        (
            "a division by zero at load",
            Model::new(constant_zero.file()).ports("x INT64 1", "y INT64 1"),
            vec![integer("x", 1)],
            Code::ModelParse,
        ),
        (
            "a division by zero at run",
            Model::new(input_zero.file()).ports("x INT64 1; z INT64 1", "y INT64 1"),
            vec![integer("x", 1), integer("z", 0)],
            Code::ModelRun,
        ),
        ("too much output", Model::new(good).output_bytes(3), x(), Code::OutputTooLarge),
    ]
}

#[tokio::test]
async fn a_bad_model_costs_its_item_and_nothing_else() {
    let mut rig = Rig::start().await;
    let good = Model::new(relu().file());
    for (what, model, inputs, code) in refused() {
        let fault = rig.ask(&model, inputs).await.expect_err(what);
        assert_eq!(fault.code, code, "{what}: {fault}");
        assert!(rig.ask(&good, input(&[4.0])).await.is_ok(), "after {what}");
    }
    assert_eq!(rig.exits, 0, "none of these may end the process");
    rig.stop().await;
}

#[tokio::test]
async fn too_much_memory_while_loading_ends_the_process_and_not_the_agent() {
    let mut graph = relu();
    // 2^28 floats are a gigabyte; the file has a few hundred bytes, and the number is not among them.
    graph.constants = vec![tensor("root", INT64, &[1], &ints(&[1 << 14]))];
    graph.nodes = vec![
        node("Mul", &["root", "root"], &["shape"]),
        node("ConstantOfShape", &["shape"], &["big"]),
        node("ReduceMax", &["big"], &["top"]),
        node("Add", &["x", "top"], &["y"]),
    ];
    let bomb = Model::new(graph.file()).ports("x FP32 -1", "y FP32 -1");
    let mut rig = Rig::start().await;
    let fault = rig.ask(&bomb, input(&[1.0])).await.unwrap_err();
    assert_eq!(fault.code, Code::WorkerMemory, "{fault}");
    assert!(fault.message.contains(&format!("limits.memory_bytes = {}", 64 * MEGABYTE)), "{fault}");
    assert!(rig.ask(&Model::new(relu().file()), input(&[1.0])).await.is_ok());
    assert_eq!(rig.exits, 1);
    rig.stop().await;
}

#[tokio::test]
async fn an_allocation_that_no_machine_can_serve_ends_the_process_and_not_the_agent() {
    // Terabytes of zeros around one point in space, each side padded by what is allowed.
    let padded = with(node("Conv", &["x", "w"], &["y"]), integers("pads", &[4096; 6]));
    let graph = Graph {
        nodes: vec![padded],
        constants: vec![tensor("w", FLOAT, &[1; 5], &floats(&[1.0]))],
        inputs: vec![value("x", FLOAT, &[1; 5])],
        outputs: vec![value("y", FLOAT, &[1, 1, 0, 0, 0])],
    };
    let model = Model::new(graph.file()).ports("x FP32 1,1,1,1,1", "y FP32 1,1,-1,-1,-1");
    let mut rig = Rig::start().await;
    let pixel = vec![Tensor::f32s("x", vec![1; 5], &[1.0]).unwrap()];
    assert_eq!(rig.ask(&model, pixel).await.unwrap_err().code, Code::WorkerMemory);
    assert!(rig.ask(&Model::new(relu().file()), input(&[1.0])).await.is_ok());
    rig.stop().await;
}

#[tokio::test]
async fn a_model_whose_file_is_gone_costs_its_item_and_nothing_else() {
    let mut rig = Rig::start().await;
    let work = rig.work(&Model::new(relu().file()), 1, input(&[1.0]));
    std::fs::remove_file(work.model.onnx_path()).unwrap();
    rig.handle.run(work).unwrap();
    let fault = rig.answer().await.unwrap_err();
    assert_eq!(fault.code, Code::ModelUnknown);
    assert!(fault.message.contains("\"model.onnx\""), "{fault}");
    assert!(rig.ask(&Model::new(relu().file()), input(&[1.0])).await.is_ok());
    assert_eq!(rig.exits, 0);
    rig.stop().await;
}

#[tokio::test]
async fn an_item_too_long_for_a_frame_costs_nothing_but_itself() {
    let mut rig = Rig::start().await;
    let long = vec![Tensor::bytes("x", &vec![0; neap::units::FRAME_BYTES_MAX])];
    let fault = rig.ask(&Model::new(relu().file()), long).await.unwrap_err();
    assert_eq!(fault.code, Code::JobTooLarge);
    assert!(rig.ask(&Model::new(relu().file()), input(&[1.0])).await.is_ok());
    rig.stop().await;
}

#[tokio::test]
async fn too_much_memory_while_running_ends_the_process_and_not_the_agent() {
    // A column times a row: what it needs grows with the square of its input.
    let graph = Graph {
        nodes: vec![
            node("Transpose", &["x"], &["row"]),
            node("MatMul", &["x", "row"], &["product"]),
            node("ReduceMax", &["product"], &["y"]),
        ],
        constants: vec![],
        inputs: vec![value("x", FLOAT, &[0, 1])],
        outputs: vec![value("y", FLOAT, &[1, 1])],
    };
    let model = Model::new(graph.file()).ports("x FP32 -1,1", "y FP32 1,1");
    let column = |length| vec![Tensor::f32s("x", vec![length, 1], &vec![2.0; length]).unwrap()];
    let mut rig = Rig::start().await;
    assert_eq!(rig.ask(&model, column(100)).await.unwrap().tensors[0].to_f32s().unwrap(), [4.0]);
    // 8192² floats are four times the limit.
    assert_eq!(rig.ask(&model, column(8192)).await.unwrap_err().code, Code::WorkerMemory);
    assert!(rig.ask(&model, column(100)).await.is_ok());
    rig.stop().await;
}

#[tokio::test]
async fn an_item_above_its_time_is_killed_and_the_next_one_runs() {
    let mut rig = Rig::start().await;
    let slow = rig.work(&endless(), 5, large_square());
    rig.handle.run(slow).unwrap();
    rig.until_busy().await;
    rig.handle.kill(Code::WorkerTimeout, Some(5)).unwrap();
    let (token, fault) = rig.exit().await;
    assert_eq!((token, fault.code), (Some(5), Code::WorkerTimeout));
    assert!(rig.ask(&Model::new(relu().file()), input(&[1.0])).await.is_ok());
    rig.stop().await;
}

#[tokio::test]
async fn a_stopped_worker_can_be_killed() {
    let mut rig = Rig::start().await;
    let slow = rig.work(&endless(), 5, large_square());
    rig.handle.run(slow).unwrap();
    rig.until_busy().await;
    neap::sys::signal::stop_process(rig.pid).unwrap();
    rig.handle.kill(Code::JobCanceled, Some(5)).unwrap();
    assert_eq!(rig.exit().await.1.code, Code::JobCanceled);
    assert!(rig.ask(&Model::new(relu().file()), input(&[1.0])).await.is_ok());
    rig.stop().await;
}

#[tokio::test]
async fn killing_one_job_leaves_the_other_alone() {
    let mut rig = Rig::start().await;
    let (slow, good) = (endless(), Model::new(relu().file()));
    rig.handle.run(rig.work(&slow, 5, large_square())).unwrap();
    rig.until_busy().await;
    // One that only waits is answered; the process stays at its own.
    rig.handle.run(rig.work(&good, 6, input(&[1.0]))).unwrap();
    rig.handle.kill(Code::JobCanceled, Some(6)).unwrap();
    assert_eq!(rig.answer().await.unwrap_err().code, Code::JobCanceled);
    assert_eq!(rig.exits, 0);
    // One that waits behind a killed one runs in the next process.
    rig.handle.run(rig.work(&good, 7, input(&[2.0]))).unwrap();
    rig.handle.kill(Code::WorkerTimeout, Some(5)).unwrap();
    assert_eq!(rig.exit().await.0, Some(5));
    assert_eq!(rig.answer().await.unwrap().tensors[0].to_f32s().unwrap(), [2.0]);
    rig.stop().await;
}

#[tokio::test]
async fn work_behind_a_killed_item_of_the_same_job_is_void() {
    let mut rig = Rig::start().await;
    rig.handle.run(rig.work(&endless(), 5, large_square())).unwrap();
    rig.until_busy().await;
    rig.handle.run(rig.work(&endless(), 5, large_square())).unwrap();
    rig.handle.kill(Code::WorkerTimeout, Some(5)).unwrap();
    assert_eq!(rig.exit().await.0, Some(5));
    assert_eq!(rig.handle.room(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_worker_killed_from_outside_is_a_crash_with_its_signal_and_is_replaced() {
    let mut rig = Rig::start().await;
    let first = rig.pid;
    rig.handle.run(rig.work(&endless(), 9, large_square())).unwrap();
    rig.until_busy().await;
    neap::sys::signal::kill_process(first).unwrap();
    let (token, fault) = rig.exit().await;
    assert_eq!((token, fault.code), (Some(9), Code::WorkerCrashed));
    assert!(fault.message.contains("signal 9"), "{fault}");
    assert!(rig.ask(&Model::new(relu().file()), input(&[1.0])).await.is_ok());
    assert_ne!(rig.pid, first);
    rig.stop().await;
}

#[tokio::test]
async fn a_stopped_handle_leaves_no_process() {
    let rig = Rig::start().await;
    let pid = rig.pid;
    rig.stop().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_worker_whose_sentinel_falls_silent_stops_itself_goes_on_with_the_beat_and_says_so() {
    let gate = Gate::with(Cgroups::none(), Some(Duration::from_millis(300))).unwrap();
    let silent = Arc::new(AtomicBool::new(false));
    let sentinel = std::thread::spawn({
        let (gate, silent) = (Arc::downgrade(&gate), Arc::clone(&silent));
        move || {
            while let Some(gate) = gate.upgrade() {
                if !silent.load(SeqCst) {
                    gate.beat(clock::now());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let mut rig = Rig::start_at(gate).await;
    rig.handle.run(rig.work(&products(40).output_bytes(8 * MEGABYTE), 1, large_square())).unwrap();
    rig.until_busy().await;
    silent.store(true, SeqCst);
    // Nobody stops it from outside, and it has work for seconds: if it sleeps, it parks. It wakes for a look at the beat
    // a hundred times a second.
    let mut asleep = 0;
    while asleep < 50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", rig.pid)).unwrap();
        asleep += u32::from(stat.rsplit_once(')').unwrap().1.trim_start().starts_with('S'));
    }
    let before = clock::process_cpu(rig.pid).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = clock::process_cpu(rig.pid).unwrap() - before;
    assert!(used < Duration::from_millis(200), "a parked worker used {used:?} of CPU in a second");
    silent.store(false, SeqCst);
    assert_eq!(rig.answer().await.unwrap().tensors[0].shape, [1200, 1200]);
    assert!(rig.parks >= 1 && rig.exits == 0, "{} parks, {} exits", rig.parks, rig.exits);
    rig.stop().await;
    sentinel.join().unwrap();
}

#[tokio::test]
async fn a_worker_is_jailed_before_it_works() {
    if rig::emulation::not_under_emulation(
        "qemu-user has neither Landlock nor seccomp, and leaves address spaces alone",
    ) {
        return;
    }
    let core = *neap::sys::sched::cores().last().unwrap();
    let rig = Rig::start_on(core).await;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", rig.pid)).unwrap();
    assert_eq!(rig.jail, Vec::<String>::new(), "every step must work here");
    // Behind the command in brackets: field 3 is the first; 19 is nice, 41 the scheduling policy.
    let stat = read("stat");
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("19", "5"), "nice 19, SCHED_IDLE");
    assert_eq!(read("oom_score_adj").trim(), "1000");
    let status = read("status");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains(&format!("Cpus_allowed_list:\t{core}\n")), "{status}");
    let limits = read("limits");
    let line = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    for (name, soft) in
        [("Max open files", "32"), ("Max processes", "0"), ("Max file size", "0"), ("Max locked memory", "0")]
    {
        let found = line(name);
        assert_eq!(found[name.len()..].split_whitespace().next(), Some(soft), "{limits}");
    }
    for held in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{held}:\t0000000000000000\n")), "{status}");
    }
    assert!(status.contains("Seccomp:\t2\n") && status.contains("Threads:\t1\n"), "{status}");
    assert!(line("Max core file size").contains(" 0 "), "{limits}");
    assert!(!line("Max address space").contains("unlimited"), "{limits}");
    rig.stop().await;
}

#[tokio::test]
async fn a_binary_that_cannot_start_is_tried_again_more_and_more_slowly() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::of(folder.path().join("missing"));
    let mut waits = Vec::new();
    for _ in 0..4 {
        let Event::Exited { token, fault, retry_in, .. } = rig.event().await else { panic!("an exit was expected") };
        assert_eq!((token, fault.unwrap().code), (None, Code::WorkerStart));
        waits.push(retry_in.as_millis());
    }
    assert_eq!(waits, [20, 40, 80, 80]);
    rig.stop().await;
}

#[tokio::test]
async fn work_for_a_worker_that_cannot_start_does_not_wait_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::of(folder.path().join("missing"));
    rig.handle.run(rig.work(&Model::new(relu().file()), 3, input(&[1.0]))).unwrap();
    let (token, fault) = loop {
        let (token, fault) = rig.exit().await;
        if token.is_some() {
            break (token, fault);
        }
    };
    assert_eq!((token, fault.code), (Some(3), Code::WorkerStart));
    rig.stop().await;
}

#[tokio::test]
async fn a_process_that_talks_nonsense_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let script = rig::script(folder.path(), "printf 'HTTP/1.1 200 OK\\r\\n\\r\\n' >&0; exec sleep 1000");
    let mut rig = Rig::of(script);
    let (token, fault) = rig.exit().await;
    assert_eq!((token, fault.code), (None, Code::WorkerProtocol));
    rig.stop().await;
}

#[tokio::test]
async fn the_last_words_of_a_process_are_in_the_fault() {
    let folder = tempfile::tempdir().unwrap();
    let script = rig::script(folder.path(), "printf 'first\\nno \\033[31mroom\\n' >&2; exit 3");
    let mut rig = Rig::of(script);
    let fault = rig.exit().await.1;
    assert_eq!(fault.code, Code::WorkerStart);
    assert!(fault.message.contains("exit code 3") && fault.message.ends_with("last words: no [31mroom"), "{fault}");
    rig.stop().await;
}
