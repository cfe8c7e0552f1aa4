automod::dir!("tests/cases/router");
