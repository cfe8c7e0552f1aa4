automod::dir!("tests/cases/gemm");
