//! All steps of `cuda/hopper/README.md` at once.

use check::probes::machines;
use check::probes::product::check_product;

#[test]
fn a_pair_of_ctas_multiplies_through_a_ring() {
    machines().iter().for_each(check_product);
}
