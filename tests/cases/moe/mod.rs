automod::dir!("tests/cases/moe");
