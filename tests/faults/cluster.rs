//! What CTAs of a cluster tell each other: an arrival on the other's mbarrier orders shared memory, and nothing else.

use super::build::{Edit, Library};
use super::caught_in;
use check::probes::check_cluster;

const CLUSTER: &str = "hopper/probes/cluster.cuh";

const fn edit(from: &'static str, to: &'static str) -> Edit {
    Edit { file: CLUSTER, from, to }
}

fn caught(edits: &[Edit], causes: &[&str]) {
    caught_in(&Library::with("probe_cluster", edits), &check_cluster, causes);
}

#[test]
fn no_fault() {
    let library = Library::with("probe_cluster", &[]);
    (0..super::SEEDS).for_each(|seed| check_cluster(&library.device(seed)));
}

const WORDS_HANDED_OVER: &str = "  ptx::cluster_arrive();\n  ptx::cluster_wait();\n\n  uint32_t seen";

#[test]
fn words_in_global_memory_under_a_remote_arrival() {
    let arrivals = "for (uint32_t rank = 0; rank < 2; ++rank) ptx::mbarrier_arrive_cluster(read, rank);\n\
                    ptx::mbarrier_wait_cluster(read, 0);\n  uint32_t seen";
    let later =
        edit("ptx::mbarrier_wait_cluster(read, step);", "ptx::mbarrier_wait_cluster(read, step ^ 1);");
    caught(
        &[later, edit(WORDS_HANDED_OVER, arrivals)],
        &["an arrival from another CTA orders shared memory only"],
    );
}

#[test]
fn words_in_global_memory_under_a_relaxed_barrier() {
    let relaxed = "  ptx::cluster_arrive_relaxed();\n  ptx::cluster_wait();\n\n  uint32_t seen";
    caught(&[edit(WORDS_HANDED_OVER, relaxed)], &["global load of output", "not ordered"]);
}

#[test]
fn mbarriers_under_a_relaxed_barrier_without_their_fence() {
    caught(&[edit("    ptx::fence_mbarrier_init();\n", "")], &["mbarrier.init"]);
}

#[test]
fn bytes_overwritten_before_their_reader_has_given_them_back() {
    let without_the_peer = edit("ptx::mbarrier_wait_cluster(read, step);", "ptx::mbarrier_wait(read, step);");
    caught(&[without_the_peer], &["bulk copy"]);
}
