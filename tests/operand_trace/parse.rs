//! Reads the PTX that nvcc writes for one kernel: instructions with their full form, registers and labels
//! resolved. `{ }` blocks of inline asm are scopes: the same register and label names recur at every
//! inlining.

use std::collections::HashMap;

/// Index of a register among all registers of the kernel.
pub type Register = usize;

/// One operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// `_`: a result nobody wants.
    Sink,
    Register(Register),
    /// `a|b`: two results of one instruction; `_` is `None`.
    Pair(Option<Register>, Option<Register>),
    /// Integers are sign-extended, floats are their bits.
    Immediate(u64),
    /// `%tid.x` and the like, or a name that is no register: a shared array, a parameter.
    Name(String),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`.
    Address(Box<Operand>, i64),
    /// `[map, {x, y}]`.
    Tensor(Box<Operand>, Vec<Operand>),
    /// Index of the instruction behind a label.
    Target(usize),
}

/// `@p` or `@!p`: the lanes that execute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    pub predicate: Register,
    pub negated: bool,
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub guard: Option<Guard>,
    /// The whole opcode with every suffix, as in `mul.wide.u32`.
    pub form: String,
    pub operands: Vec<Operand>,
    /// Line in the PTX text.
    pub line: usize,
    /// The statement, for reports.
    pub text: String,
}

/// One kernel.
#[derive(Debug)]
pub struct Program {
    pub name: String,
    /// Name of the only parameter, a struct.
    pub parameter: String,
    pub parameter_bytes: u64,
    /// Name of the dynamic shared array, possibly mangled.
    pub dynamic_shared: Option<String>,
    /// `.maxntid`: threads per CTA.
    pub threads: u64,
    /// `.reqnctapercluster`: CTAs per cluster.
    pub cluster: u64,
    pub register_count: usize,
    pub instructions: Vec<Instruction>,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    start: usize,
    line: usize,
}

/// Directives that end with their line instead of a semicolon. They say nothing about what is executed.
const LINE_DIRECTIVES: [&str; 5] = [".version", ".target", ".address_size", ".loc", ".file"];

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// Length of the word at the start of `text`; `::` belongs to a word, a single colon ends a label.
fn word_length(text: &str) -> usize {
    let mut length = 0;
    while let Some(c) = text[length..].chars().next() {
        match c {
            c if is_word(c) => length += c.len_utf8(),
            ':' if length > 0 && text[length..].starts_with("::") => length += 2,
            _ => break,
        }
    }
    length
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut start_of_line = 0;
    for (index, full_line) in source.split_inclusive('\n').enumerate() {
        let line = full_line.split("//").next().unwrap_or_default();
        let first = line.split_whitespace().next().unwrap_or_default();
        if !LINE_DIRECTIVES.contains(&first) {
            let mut at = 0;
            while let Some(c) = line[at..].chars().next() {
                let length = if c == '"' {
                    line[at + 1..].find('"').map_or(line.len() - at, |end| end + 2)
                } else {
                    word_length(&line[at..]).max(c.len_utf8())
                };
                if !c.is_whitespace() {
                    let text = &line[at..at + length];
                    tokens.push(Token { text, start: start_of_line + at, line: index + 1 });
                }
                at += length;
            }
        }
        start_of_line += full_line.len();
    }
    tokens
}

fn integer(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('U').unwrap_or(text);
    match digits.get(..2) {
        Some("0x" | "0X") => u64::from_str_radix(&digits[2..], 16).ok(),
        Some("0f" | "0F") if digits.len() == 10 => u64::from_str_radix(&digits[2..], 16).ok(),
        Some("0d" | "0D") if digits.len() == 18 => u64::from_str_radix(&digits[2..], 16).ok(),
        _ => digits.parse().ok(),
    }
}

/// A `{ }` block: the names it declares, and the branches to labels it has not seen yet.
#[derive(Default)]
struct Scope {
    registers: HashMap<String, Register>,
    labels: HashMap<String, usize>,
    branches: Vec<(usize, String)>,
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
    scopes: Vec<Scope>,
    register_count: usize,
    instructions: Vec<Instruction>,
}

/// Parses the text of one kernel.
pub fn parse(source: &str) -> Result<Program, String> {
    let mut parser = Parser {
        source,
        tokens: tokens(source),
        at: 0,
        scopes: Vec::new(),
        register_count: 0,
        instructions: Vec::new(),
    };
    parser.module()
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).map_or("", |token| token.text)
    }

    fn next(&mut self) -> &'a str {
        let text = self.peek();
        self.at += 1;
        text
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.peek() == text;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        if self.accept(text) { Ok(()) } else { Err(self.unexpected(&format!("`{text}`"))) }
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.tokens.get(self.at) {
            Some(token) => format!("line {}: expected {wanted}, found `{}`", token.line, token.text),
            None => format!("end of text: expected {wanted}"),
        }
    }

    fn number(&mut self) -> Result<u64, String> {
        let negative = self.accept("-");
        let value = integer(self.peek()).ok_or_else(|| self.unexpected("a number"))?;
        self.at += 1;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn module(&mut self) -> Result<Program, String> {
        let mut dynamic_shared = None;
        let mut program = None;
        while self.at < self.tokens.len() {
            match self.peek() {
                ".section" => self.skip_block()?,
                ".extern" => {
                    let declaration = self.skip_statement();
                    if declaration.first() != Some(&".shared") {
                        return Err(format!("refused declaration: {}", declaration.join(" ")));
                    }
                    dynamic_shared = declaration.iter().rev().nth(2).map(|&name| name.to_owned());
                }
                ".visible" if program.is_none() => program = Some(self.entry()?),
                _ => return Err(self.unexpected("one kernel")),
            }
        }
        let program = program.ok_or("no kernel in the text")?;
        Ok(Program { dynamic_shared, ..program })
    }

    /// Debug sections: everything from here through the matching brace.
    fn skip_block(&mut self) -> Result<(), String> {
        let mut depth = 0;
        loop {
            match self.next() {
                "{" => depth += 1,
                "}" if depth == 1 => return Ok(()),
                "}" => depth -= 1,
                "" => return Err("a section does not end".to_owned()),
                _ => {}
            }
        }
    }

    /// The words after the directive, without the semicolon.
    fn skip_statement(&mut self) -> Vec<&'a str> {
        self.at += 1;
        let start = self.at;
        while !matches!(self.peek(), ";" | "") {
            self.at += 1;
        }
        let words = self.tokens[start..self.at].iter().map(|token| token.text).collect();
        self.at += 1;
        words
    }

    // .visible .entry name(.param .align 128 .b8 name_param_0[640]) .maxntid 256, 1, 1 { ... }
    fn entry(&mut self) -> Result<Program, String> {
        self.expect(".visible")?;
        self.expect(".entry")?;
        let name = self.next().to_owned();
        self.expect("(")?;
        self.expect(".param")?;
        if self.accept(".align") {
            self.number()?;
        }
        self.expect(".b8")?;
        let parameter = self.next().to_owned();
        self.expect("[")?;
        let parameter_bytes = self.number()?;
        self.expect("]")?;
        self.expect(")")?;

        let (mut threads, mut cluster) = (0, 1);
        while !self.accept("{") {
            let directive = self.next();
            let mut product = 1;
            while integer(self.peek()).is_some() {
                product *= self.number()?;
                self.accept(",");
            }
            match directive {
                ".maxntid" => threads = product,
                ".reqnctapercluster" => cluster = product,
                ".minnctapersm" | ".explicitcluster" => {}
                _ => return Err(format!("refused kernel directive {directive}")),
            }
        }
        self.body()?;
        Ok(Program {
            name,
            parameter,
            parameter_bytes,
            dynamic_shared: None,
            threads,
            cluster,
            register_count: self.register_count,
            instructions: std::mem::take(&mut self.instructions),
        })
    }

    fn body(&mut self) -> Result<(), String> {
        self.scopes.push(Scope::default());
        while !self.scopes.is_empty() {
            match self.peek() {
                "{" => {
                    self.at += 1;
                    self.scopes.push(Scope::default());
                }
                "}" => {
                    self.at += 1;
                    self.close_scope()?;
                }
                ".reg" => self.declare_registers()?,
                ".pragma" => {
                    self.skip_statement();
                }
                word if self.tokens.get(self.at + 1).is_some_and(|token| token.text == ":") => {
                    let here = self.instructions.len();
                    self.scope().labels.insert(word.to_owned(), here);
                    self.at += 2;
                }
                _ => self.instruction()?,
            }
        }
        Ok(())
    }

    fn scope(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("inside a kernel's body")
    }

    /// Branches to labels of this block are resolved; the others may belong to a block around it.
    fn close_scope(&mut self) -> Result<(), String> {
        let scope = self.scopes.pop().expect("inside a kernel's body");
        for (branch, label) in scope.branches {
            match (scope.labels.get(&label), self.scopes.last_mut()) {
                (Some(&target), _) => self.instructions[branch].operands = vec![Operand::Target(target)],
                (None, Some(outer)) => outer.branches.push((branch, label)),
                (None, None) => return Err(format!("no label {label}")),
            }
        }
        Ok(())
    }

    // .reg .b32 %r<319>;  .reg .pred p, q;
    fn declare_registers(&mut self) -> Result<(), String> {
        self.expect(".reg")?;
        self.next();
        loop {
            let name = self.next();
            if self.accept("<") {
                for i in 0..self.number()? {
                    self.declare(format!("{name}{i}"));
                }
                self.expect(">")?;
            } else {
                self.declare(name.to_owned());
            }
            if !self.accept(",") {
                return self.expect(";");
            }
        }
    }

    fn declare(&mut self, name: String) {
        let register = self.register_count;
        self.register_count += 1;
        self.scope().registers.insert(name, register);
    }

    fn register(&self, name: &str) -> Option<Register> {
        self.scopes.iter().rev().find_map(|scope| scope.registers.get(name)).copied()
    }

    fn predicate(&mut self) -> Result<Register, String> {
        let register = self.register(self.peek()).ok_or_else(|| self.unexpected("a predicate"))?;
        self.at += 1;
        Ok(register)
    }

    fn instruction(&mut self) -> Result<(), String> {
        let Some(&Token { start, line, .. }) = self.tokens.get(self.at) else {
            return Err(self.unexpected("an instruction"));
        };
        let guard = if self.accept("@") {
            let negated = self.accept("!");
            Some(Guard { predicate: self.predicate()?, negated })
        } else {
            None
        };
        let form = self.next().to_owned();
        let mut operands = Ok(Vec::new());
        if form == "bra" || form == "bra.uni" {
            let label = self.next().to_owned();
            let here = self.instructions.len();
            self.scope().branches.push((here, label));
        } else if self.peek() != ";" {
            operands = self.operands();
        }
        let understood = operands.is_ok() && self.peek() == ";";
        while !matches!(self.peek(), ";" | "") {
            self.at += 1;
        }
        let end = self.tokens.get(self.at).map_or(self.source.len(), |token| token.start);
        let text = self.source[start..end].split_whitespace().collect::<Vec<_>>().join(" ");
        let operands =
            operands.ok().filter(|_| understood).ok_or_else(|| format!("line {line}: refused: {text}"))?;
        self.expect(";")?;
        self.instructions.push(Instruction { guard, form, operands, line, text });
        Ok(())
    }

    fn operands(&mut self) -> Result<Vec<Operand>, String> {
        let mut operands = vec![self.operand()?];
        while self.accept(",") {
            operands.push(self.operand()?);
        }
        Ok(operands)
    }

    fn vector(&mut self) -> Result<Vec<Operand>, String> {
        self.expect("{")?;
        let elements = self.operands()?;
        self.expect("}")?;
        Ok(elements)
    }

    fn operand(&mut self) -> Result<Operand, String> {
        match self.peek() {
            "{" => Ok(Operand::Vector(self.vector()?)),
            "[" => self.address(),
            "-" => Ok(Operand::Immediate(self.number()?)),
            word if integer(word).is_some() => Ok(Operand::Immediate(self.number()?)),
            word if word.starts_with(is_word) => {
                self.at += 1;
                let first = self.register(word);
                if self.accept("|") {
                    let second = self.next();
                    return Ok(Operand::Pair(first, self.register(second)));
                }
                Ok(match first {
                    Some(register) => Operand::Register(register),
                    None if word == "_" => Operand::Sink,
                    None => Operand::Name(word.to_owned()),
                })
            }
            _ => Err(self.unexpected("an operand")),
        }
    }

    fn address(&mut self) -> Result<Operand, String> {
        self.expect("[")?;
        let base = Box::new(self.operand()?);
        let address = if self.accept(",") {
            Operand::Tensor(base, self.vector()?)
        } else if self.accept("+") {
            Operand::Address(base, self.number()?.cast_signed())
        } else {
            Operand::Address(base, 0)
        };
        self.expect("]")?;
        Ok(address)
    }
}
