//! A bare engine with the language's tensor functions, for tests below the session.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use ftrepl::control::Control;
use ftrepl::script::context::{Context, SharedContext};
use ftrepl::script::registry::OptionCatalogue;
use ftrepl::script::registry::Registry;
use rhai::{Dynamic, Engine, Token};
use std::cell::Cell;
use std::rc::Rc;

/// An engine with what `script::tensor`, `script::nn` and `script::optim` register.
pub fn engine() -> Engine {
    let mut engine = Engine::new();
    let mut context = Context::new(Control::default(), OptionCatalogue::default(), candle_core::Device::Cpu, 0);
    // Examples write files.
    context.out = env!("CARGO_TARGET_TMPDIR").into();
    engine.set_default_tag(Dynamic::from(SharedContext(Rc::new(context))));
    let after_period = Cell::new(false);
    #[allow(deprecated)]
    engine.on_parse_token(move |token, _, _| {
        let token = match token {
            Token::Reserved(word) if *word == "eval" && after_period.get() => Token::Identifier(Box::new("eval_mode".into())),
            Token::Reserved(word) if after_period.get() || *word == "shared" => Token::Identifier(word),
            Token::Identifier(word) if *word == "eval" && after_period.get() => Token::Identifier(Box::new("eval_mode".into())),
            other => other,
        };
        after_period.set(token == Token::Period);
        token
    });
    engine.register_custom_operator("@", 180).unwrap();
    let mut registry = Registry::new(&mut engine);
    ftrepl::script::tensor::register(&mut registry);
    ftrepl::script::nn::register(&mut registry);
    ftrepl::script::optim::register(&mut registry);
    registry.finish();
    engine
}

/// The result of a script as text.
pub fn run(script: &str) -> String {
    engine().eval::<Dynamic>(script).unwrap_or_else(|error| panic!("{error}\n{script}")).to_string()
}

/// The message of a script that must fail.
pub fn fails(script: &str) -> String {
    match engine().eval::<Dynamic>(script) {
        Ok(value) => panic!("gave {value}: {script}"),
        Err(error) => error.to_string(),
    }
}
