automod::dir!("tests/cases/quant");
