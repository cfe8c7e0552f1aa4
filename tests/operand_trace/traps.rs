//! Where a reader of PTX goes wrong silently, one snippet each.

use crate::interpret::{Cta, Logged, run};
use crate::parse::parse;

const COPY_TO_CTA: &str = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes";

/// Runs `body` with 64 threads and 16 bytes of parameters, the words 3, 5, 7 and 9.
fn try_run(body: &str) -> Result<Vec<Vec<Logged>>, String> {
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n\
         .extern .shared .align 1024 .b8 _ZN3ptx12dynamic_smemE[];\n\
         .visible .entry kernel(\n.param .align 8 .b8 kernel_param_0[16]\n)\n\
         .maxntid 64, 1, 1\n.reqnctapercluster 2, 1, 1\n{{\n\
         .reg .pred %p<9>;\n.reg .b16 %rs<9>;\n.reg .b32 %r<9>;\n.reg .f32 %f<9>;\n.reg .b64 %rd<9>;\n\
         {body}\n}}\n"
    );
    let params: Vec<u8> = [3_u32, 5, 7, 9].into_iter().flat_map(u32::to_le_bytes).collect();
    run(&parse(&text)?, Cta { index: 5, grid: 8, params: &params, shared: 1024 })
}

fn traces(body: &str) -> Vec<Vec<String>> {
    let logs = try_run(body).unwrap_or_else(|message| panic!("{message}"));
    logs.iter().map(|log| log.iter().map(|logged| logged.operation.to_string()).collect()).collect()
}

/// What all threads log.
fn trace(body: &str) -> Vec<String> {
    let traces = traces(body);
    assert!(traces.iter().all(|trace| *trace == traces[0]), "{traces:?}");
    traces[0].clone()
}

fn refusal(body: &str) -> String {
    try_run(body).expect_err("refused")
}

#[test]
fn an_unlisted_form_is_refused_with_its_text() {
    for instruction in [
        "add.f32 %f1, %f2, %f3;",
        "cvt.rz.bf16x2.f32 %r1, %f1, %f2;",
        "st.shared.v4.f32 [%r1], {%f1, %f2, %f3, %f4};",
        "bar.sync %r1, 128;",
        "bar.sync 1;",
        "fence.proxy.async;",
        "cp.async.bulk.wait_group.read %r1;",
        "mbarrier.arrive.shared::cta.b64 %rd1, [%r1];",
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd3, {%r1, %r2, %r3}], [%r4];",
        "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%f1, %f2, %f3, %f4}, %rd1, %rd2, %p1, -1, 1;",
        "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%f1, %f2, %f3, %f4}, %rd1, %rd2, %p1, 1, 1, 0, 1;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd1, %rd2, %p1, 1, 1, 1, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%f1, %f2}, %rd1, %rd2, %p1, 1, 1;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, %rd2, %p1, 1, 1, 0;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, {%r1, %r2}, %rd2, %p1, 1, 1, 1;",
        "mov.u32 %r1, %laneid;",
        "mov.u32 %r1, some_array;",
        "add.s32 %r1, %r2;",
    ] {
        let message = refusal(&format!("{instruction} ret;"));
        assert!(
            message.contains("refused") && message.contains(instruction.trim_end_matches(';')),
            "{message}"
        );
    }
    assert!(refusal("call.uni (%r1), f, (%r2); ret;").contains("call.uni"));
}

#[test]
fn blocks_of_inline_asm_are_scopes() {
    let wait = "{ .reg .pred done;\nagain:\n\
        mbarrier.try_wait.parity.shared::cta.b64 done, [%r1], %r2;\n@!done bra again; }\n";
    let other =
        "{ .reg .pred done;\nagain:\nsetp.eq.s32 done, %r2, 9;\nadd.s32 %r2, %r2, 1;\n@!done bra again; }\n";
    let body =
        format!("mov.u32 %r1, 64; mov.u32 %r2, 1; {wait}{other}{wait} bra.uni out;\nbar.sync 0;\nout:\nret;");
    assert_eq!(trace(&body), ["mbarrier_wait(0x40, 0x1)", "mbarrier_wait(0x40, 0xa)"]);
    assert!(refusal(&format!("{wait} bra again; ret;")).contains("no label again"));
}

#[test]
fn pairs_float_literals_double_colons_and_nested_vectors() {
    let body = "mov.u32 %r1, 0; mov.u32 %r2, 31; mov.u32 %r3, -1;
        shfl.sync.idx.b32 %r4|%p1, %r2, %r1, %r2, %r3;
        { .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %r5, 1, 0, p; }
        mov.f32 %f1, 0f3F800000; mov.b64 %rd1, kernel_param_0; cvta.param.u64 %rd2, %rd1;
        st.shared.f32 [%r4+-4], %f1;
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
        [%r4], [%rd2, {%r1, %r3}], [%r2];
        ret;";
    assert_eq!(
        trace(body),
        ["sts_f32(0x1b, 0x3f800000)", "tma_load_2d(0x0, 0x1f, 0x1f, 0x0, 0xffffffffffffffff)"]
    );
}

#[test]
fn a_barrier_without_a_count_means_the_cta() {
    assert_eq!(
        trace("bar.sync 0; bar.sync 1, 128; bar.arrive 2, 64; bar.warp.sync -1; ret;"),
        ["syncthreads()", "named_barrier_sync(0x1, 0x80)", "named_barrier_arrive(0x2, 0x40)", "syncwarp()"]
    );
}

#[test]
fn diverged_lanes_meet_again() {
    // Lane by lane a loop of its own length; the even lanes then take a detour. A shuffle needs all of them.
    let body = "mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 31; mov.u32 %r3, 0; mov.u32 %r4, 0;
        loop:
        add.s32 %r4, %r4, %r3; add.s32 %r3, %r3, 1; setp.le.u32 %p1, %r3, %r2; @%p1 bra loop;
        and.b32 %r5, %r2, 1; setp.eq.u32 %p2, %r5, 0; @%p2 bra even;
        st.shared.u32 [%r2], %r4; bra.uni join;
        even:
        st.shared.u32 [%r2+100], %r4;
        join:
        shfl.sync.bfly.b32 %r6|%p3, %r4, 1, 31, -1;
        st.shared.u32 [%r2], %r6; ret;";
    for (thread, trace) in traces(body).iter().enumerate() {
        let lane = thread % 32;
        let sum = |lane: usize| lane * (lane + 1) / 2;
        let own = if lane % 2 == 0 { lane + 100 } else { lane };
        assert_eq!(trace[0], format!("sts_u32({own:#x}, {:#x})", sum(lane)));
        assert_eq!(trace[1], format!("sts_u32({lane:#x}, {:#x})", sum(lane ^ 1)));
    }
}

#[test]
fn lanes_that_reach_a_collective_early_wait_for_those_behind() {
    // The smallest pc runs first, so the lanes at the shuffle would go on without the ones that jump back to
    // it.
    let body =
        "mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 31; setp.lt.u32 %p1, %r2, 4; mov.u32 %r3, 1; @%p1 bra far;
        meet:
        shfl.sync.idx.b32 %r4|%p2, %r3, 2, 31, -1; st.shared.u32 [%r2], %r4; ret;
        far:
        mov.u32 %r3, 8; bra.uni meet;";
    for (thread, trace) in traces(body).iter().enumerate() {
        assert_eq!(*trace, [format!("sts_u32({:#x}, 0x8)", thread % 32)]);
    }
    let stuck = "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 4; @%p1 bra here;
        bar.warp.sync -1; ret; here: bar.warp.sync -1; ret;";
    assert!(refusal(stuck).contains("never arrive"));
}

#[test]
fn a_predicated_operation_is_logged_by_its_lanes_only() {
    let body =
        "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 2; @%p1 st.shared.u32 [%r1], 1; @!%p1 bar.sync 0; ret;";
    for (thread, trace) in traces(body).iter().enumerate() {
        let expected =
            if thread < 2 { format!("sts_u32({thread:#x}, 0x1)") } else { "syncthreads()".to_owned() };
        assert_eq!(*trace, [expected]);
    }
}

#[test]
fn shared_memory_parameters_and_special_registers() {
    let body = "mov.u32 %r1, _ZN3ptx12dynamic_smemE; mov.b64 %rd1, kernel_param_0; add.s64 %rd2, %rd1, 8;
        ld.param.u32 %r2, [kernel_param_0+4]; ld.param.v2.u32 {%r3, %r4}, [%rd2]; ld.param.u64 %rd3, [%rd1];
        mov.b64 {%r5, %r6}, %rd3; mov.u32 %r7, %cluster_ctarank; mov.u32 %r8, %nctaid.x;
        st.shared.u32 [%r1+16], %r2; st.shared.u32 [%r3], %r4; st.shared.u32 [%r5], %r6; st.shared.u32 [%r7], %r8;
        { .reg .b32 remote; mapa.shared::cluster.u32 remote, %r1, %r7;
        mbarrier.arrive.shared::cluster.b64 _, [remote]; }
        { .reg .b32 remote_dst, remote_bar; mapa.shared::cluster.u32 remote_dst, 64, %r7;
        mapa.shared::cluster.u32 remote_bar, 16, %r7; COPY [remote_dst], [%r1], %r2, [remote_bar]; } ret;"
        .replace("COPY", COPY_TO_CTA);
    assert_eq!(
        trace(&body),
        [
            "sts_u32(0x410, 0x5)",
            "sts_u32(0x7, 0x9)",
            "sts_u32(0x3, 0x5)",
            "sts_u32(0x1, 0x8)",
            "mbarrier_arrive_cluster(0x400, 0x1)",
            "bulk_copy_to_cta(0x40, 0x10, 0x400, 0x5, 0x1)",
        ]
    );
    assert!(refusal("mbarrier.arrive.shared::cluster.b64 _, [64]; ret;").contains("mapa"));
    assert!(refusal("mapa.shared::cluster.u32 %r1, 64, 2; ret;").contains("rank 2 of 2"));
    let copy = |dst, bar| {
        let map = "mapa.shared::cluster.u32 %r1, 64, 0; mapa.shared::cluster.u32 %r2, 16, 1;";
        refusal(&format!("{map} {COPY_TO_CTA} [{dst}], [32], 16, [{bar}]; ret;"))
    };
    assert!(copy("%r1", "16").contains("mapa") && copy("64", "%r2").contains("mapa"));
    assert!(copy("%r1", "%r2").contains("different CTAs"));
    assert!(refusal("ld.param.u32 %r1, [kernel_param_0+16]; ret;").contains("byte 16"));
}

#[test]
fn accumulators_arrive_at_the_wait() {
    let multiply =
        "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%f1, %f2, %f3, %f4}, 1, 2, %p1, 1, 1;
        wgmma.commit_group.sync.aligned;";
    let early = trace(&format!("setp.eq.u32 %p1, 0, 0; {multiply} st.shared.f32 [0], %f2; ret;"));
    assert_eq!(early[0], "wgmma_k32_e4m3(0x4, 0x1, 0x2, 0x1)");
    assert_eq!(early[2], "sts_f32(0x0, 0x7fabcdef)");

    let from_registers = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, 2, \
                          %p1, 1, 1, 1;";
    let read = trace(&format!(
        "mov.b32 %r1, 7; mov.b32 %r5, %r1; setp.eq.u32 %p1, 0, 0; {from_registers} st.shared.u32 [0], %r1; \
         st.shared.u32 [0], %r5; ret;"
    ));
    assert_eq!(read[1..], ["sts_u32(0x0, 0x7fabcdef)", "sts_u32(0x0, 0x7)"]);

    let late = format!(
        "setp.ne.u32 %p1, 0, 0; {multiply} wgmma.wait_group.sync.aligned 0; st.shared.f32 [0], %f2; ret;"
    );
    let stored: Vec<String> = traces(&late).iter().map(|trace| trace[3].clone()).collect();
    let expected = |thread: u64| crate::trace::made_up(thread, 0, 1, crate::decode::Element::F32);
    assert_eq!(
        stored,
        (0..64).map(|thread| format!("sts_f32(0x0, {:#x})", expected(thread))).collect::<Vec<_>>()
    );

    let two = multiply.replace("%f1, %f2", "%f5, %f6");
    let both =
        refusal(&format!("setp.ne.u32 %p1, 0, 0; {multiply} {two} wgmma.wait_group.sync.aligned 0; ret;"));
    assert!(both.contains("2 accumulators"), "{both}");
    assert!(refusal("wgmma.wait_group.sync.aligned 0; ret;").contains("0 accumulators"));
}

#[test]
fn reductions_combine_all_lanes() {
    let body = "mov.u32 %r1, %tid.x; add.s32 %r2, %r1, 7; redux.sync.add.u32 %r3, %r2, -1;
        redux.sync.min.u32 %r4, %r2, -1; redux.sync.max.u32 %r5, %r2, -1;
        st.shared.u32 [0], %r3; st.shared.u32 [0], %r4; st.shared.u32 [0], %r5; ret;";
    for (thread, trace) in (0_u32..).zip(traces(body)) {
        let first = thread / 32 * 32 + 7;
        let expected = [32 * first + 496, first, first + 31].map(|value| format!("sts_u32(0x0, {value:#x})"));
        assert_eq!(trace, expected);
    }
}

#[test]
fn a_kernel_that_does_not_end_is_reported() {
    assert!(refusal("again: bra.uni again; ret;").contains("does not end"));
    assert!(refusal("bar.sync 0;").contains("ends without ret"));
}

/// Runs each instruction on registers of known contents.
fn assert_traced(cases: &[(&str, &str)]) {
    let registers =
        "mov.u32 %r1, 0x10; mov.u32 %r2, 0x20; mov.u32 %r3, 0x30; mov.u32 %r4, 0x40; mov.u32 %r5, 0x50;
        mov.u16 %rs1, 3; mov.u64 %rd1, 0x1000; mov.u64 %rd2, 0x2000; mov.b64 %rd3, kernel_param_0;
        add.s64 %rd3, %rd3, 8; mov.b32 %f1, %r1; mov.b32 %f2, %r2;
        setp.ne.b32 %p1, %r1, 0;";
    for (instruction, expected) in cases {
        assert_eq!(trace(&format!("{registers} {instruction}; ret;")), [*expected], "{instruction}");
    }
}

#[test]
fn every_asynchronous_function_in_ptx_has_its_form_and_operand_order() {
    let four = "{%f1, %f2, %f3, %f4}, %rd1, %rd2, %p1, 1, 1";
    let to_shared = "shared::cluster.global.tile.mbarrier::complete_tx::bytes";
    assert_traced(&[
        ("mbarrier.init.shared::cta.b64 [%r1], %r2", "mbarrier_init(0x10, 0x20)"),
        ("fence.mbarrier_init.release.cluster", "fence_mbarrier_init()"),
        ("mbarrier.arrive.shared::cta.b64 _, [%r1]", "mbarrier_arrive(0x10)"),
        ("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], %r2", "mbarrier_arrive_expect_tx(0x10, 0x20)"),
        ("mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], %r2", "mbarrier_wait(0x10, 0x20)"),
        ("prefetch.tensormap [%rd3]", "prefetch_tensormap(0x8)"),
        (
            &format!("cp.async.bulk.tensor.2d.{to_shared} [%r1], [%rd3, {{%r3, %r4}}], [%r2]"),
            "tma_load_2d(0x8, 0x10, 0x20, 0x30, 0x40)",
        ),
        (
            &format!("cp.async.bulk.tensor.3d.{to_shared} [%r1], [%rd3, {{%r3, %r4, %r5}}], [%r2]"),
            "tma_load_3d(0x8, 0x10, 0x20, 0x30, 0x40, 0x50)",
        ),
        (
            &format!(
                "cp.async.bulk.tensor.2d.{to_shared}.multicast::cluster [%r1], [%rd3, {{%r3, %r4}}], [%r2], %rs1"
            ),
            "tma_load_2d_multicast(0x8, 0x10, 0x20, 0x30, 0x40, 0x3)",
        ),
        (
            "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd3, {%r3, %r4}], [%r1]",
            "tma_store_2d(0x8, 0x10, 0x30, 0x40)",
        ),
        (
            "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%rd3, {%r3, %r4, %r5}], [%r1]",
            "tma_store_3d(0x8, 0x10, 0x30, 0x40, 0x50)",
        ),
        ("cp.async.bulk.commit_group", "bulk_commit_group()"),
        ("cp.async.bulk.wait_group.read 1", "bulk_wait_group_read(0x1)"),
        ("cp.async.bulk.wait_group 2", "bulk_wait_group(0x2)"),
        ("wgmma.fence.sync.aligned", "wgmma_fence()"),
        ("wgmma.commit_group.sync.aligned", "wgmma_commit_group()"),
        (
            &format!("wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {four}"),
            "wgmma_k32_e4m3(0x4, 0x1000, 0x2000, 0x1)",
        ),
        (
            &format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {four}, 0, 0"),
            "wgmma_k16_bf16(0x4, 0x1000, 0x2000, 0x1)",
        ),
        (
            &format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {four}, 0, 1"),
            "wgmma_k16_bf16_mn(0x4, 0x1000, 0x2000, 0x1)",
        ),
        (
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, {%r1, %r3, %r4, %r5}, %rd2, %p1, 1, 1, 1",
            "wgmma_rs_k16_bf16_mn(0x4, 0x10, 0x30, 0x40, 0x50, 0x2000, 0x1)",
        ),
    ]);
}

#[test]
fn every_synchronous_function_in_ptx_has_its_form_and_operand_order() {
    assert_traced(&[
        ("barrier.cluster.arrive.release.aligned", "cluster_arrive()"),
        ("barrier.cluster.arrive.relaxed.aligned", "cluster_arrive_relaxed()"),
        ("barrier.cluster.wait.acquire.aligned", "cluster_wait()"),
        ("griddepcontrol.wait", "grid_dependency_wait()"),
        ("griddepcontrol.launch_dependents", "grid_launch_dependents()"),
        ("fence.proxy.async.shared::cta", "fence_proxy_async_shared()"),
        ("setmaxnreg.dec.sync.aligned.u32 40", "setmaxnreg_dec(0x28)"),
        ("setmaxnreg.inc.sync.aligned.u32 232", "setmaxnreg_inc(0xe8)"),
        ("ld.shared.f32 %f5, [%r1]", "lds_f32(0x10)"),
        ("ld.shared.u32 %r6, [%r1+4]", "lds_u32(0x14)"),
        ("st.shared.u32 [%r1], %r2", "sts_u32(0x10, 0x20)"),
        ("st.shared.f32 [%r1], %f2", "sts_f32(0x10, 0x20)"),
        ("st.shared.v2.f32 [%r3], {%f1, %f2}", "sts_v2_f32(0x30, 0x10, 0x20)"),
        ("st.shared.v4.u32 [%r5], {%r1, %r2, %r3, %r4}", "sts_v4_u32(0x50, 0x10, 0x20, 0x30, 0x40)"),
        (
            "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r5], {%r1, %r2, %r3, %r4}",
            "stmatrix_x4(0x50, 0x10, 0x20, 0x30, 0x40)",
        ),
        ("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r5], {%r1, %r2}", "stmatrix_x2(0x50, 0x10, 0x20)"),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r0}, [%r5]", "ldmatrix_x4(0x50)"),
        ("ld.global.nc.f32 %f5, [%rd1+8]", "ldg_f32(0x1008)"),
        ("ld.global.nc.v4.u32 {%r6, %r7, %r8, %r0}, [%rd1]", "ldg_v4_u32(0x1000)"),
        ("ld.global.u32 %r6, [%rd1]", "ld_global_u32(0x1000)"),
        ("ld.global.f32 %f5, [%rd1]", "ld_global_f32(0x1000)"),
        ("ld.global.v4.u32 {%r6, %r7, %r8, %r0}, [%rd1]", "ld_global_v4_u32(0x1000)"),
        ("st.global.f32 [%rd1], %f2", "stg_f32(0x1000, 0x20)"),
        ("st.global.u32 [%rd1], %r2", "stg_u32(0x1000, 0x20)"),
        ("st.global.v2.u32 [%rd1], {%r1, %r2}", "stg_v2_u32(0x1000, 0x10, 0x20)"),
        ("st.relaxed.sys.global.u32 [%rd1], %r2", "st_relaxed_sys_u32(0x1000, 0x20)"),
        ("red.relaxed.gpu.global.add.u32 [%rd1], %r2", "red_add_u32(0x1000, 0x20)"),
    ]);
}

#[test]
fn loads_deliver_to_their_registers_in_order() {
    let body = "ld.shared.f32 %f1, [0]; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r3, %r2, %r1}, [0];
        st.shared.f32 [0], %f1; st.shared.u32 [0], %r4; st.shared.u32 [0], %r3; st.shared.u32 [0], %r1; ret;";
    for (thread, trace) in (0..).zip(traces(body)) {
        let value = |sequence, index, element| crate::trace::made_up(thread, sequence, index, element);
        assert_eq!(trace[2], format!("sts_f32(0x0, {:#x})", value(0, 0, crate::decode::Element::F32)));
        for (operation, index) in [(3, 0), (4, 1), (5, 3)] {
            let expected = value(1, index, crate::decode::Element::U32);
            assert_eq!(trace[operation], format!("sts_u32(0x0, {expected:#x})"));
        }
    }
}
