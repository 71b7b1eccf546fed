//! Modules, functions and statements.
//!
//! Recursive descent over the token list, one function per construct. Directives with no bearing on execution (debug
//! sections, pragmas, call prototypes, aliases) are read and dropped; `.file` and `.loc` are kept.

use super::ast::{Ast, Block, Function, Guard, Instruction, Statement, Variable, Word};
use super::declare::is_space;
use super::lex::{Tok, Token, lex};
use super::{Error, Result};

/// Deepest nesting of braces in a function body.
const MAX_BLOCKS: u32 = 200;

/// A cursor over the tokens.
pub(crate) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    pos: usize,
    /// Operators seen in the current expression.
    pub(super) operators: u32,
    /// The current instruction is a `call`, whose operands may be parenthesised lists.
    pub(super) call: bool,
}

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Result<Ast<'_>> {
    let mut parser = Parser { tokens: lex(text)?, pos: 0, operators: 0, call: false };
    parser.module()
}

/// How a token is named in a message.
pub(super) fn shown(token: &Token<'_>) -> String {
    match token.tok {
        Tok::End => "the end of the file".to_owned(),
        Tok::Dot => format!("`.{}`", token.text),
        Tok::Str => format!("\"{}\"", token.text),
        _ => format!("`{}`", token.text),
    }
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Token<'a> {
        self.peek_at(0)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Token<'a> {
        // The last token is `End`, and looking past it finds it again.
        self.tokens[(self.pos + ahead).min(self.tokens.len() - 1)]
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        if self.pos + 1 < self.tokens.len() {
            self.pos += 1;
        }
        token
    }

    pub(super) fn at(&self, punct: &str) -> bool {
        let token = self.peek();
        token.tok == Tok::Punct && token.text == punct
    }

    pub(super) fn eat(&mut self, punct: &str) -> bool {
        let found = self.at(punct);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect(&mut self, punct: &str) -> Result<()> {
        if self.eat(punct) {
            return Ok(());
        }
        let found = self.peek();
        Error::err(found.span, format!("expected `{punct}`, found {}", shown(&found)))
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        let found = self.peek();
        Error::err(found.span, format!("expected {what}, found {}", shown(&found)))
    }

    fn take(&mut self, tok: Tok, what: &str) -> Result<Word<'a>> {
        let token = self.peek();
        if token.tok != tok {
            return self.expected(what);
        }
        self.next();
        Ok(Word { text: token.text, span: token.span })
    }

    pub(super) fn word(&mut self, what: &str) -> Result<Word<'a>> {
        self.take(Tok::Word, what)
    }

    pub(super) fn dot(&mut self, what: &str) -> Result<Word<'a>> {
        self.take(Tok::Dot, what)
    }

    pub(super) fn int(&mut self, what: &str) -> Result<u64> {
        match self.peek().tok {
            Tok::Int { value, .. } => {
                self.next();
                Ok(value)
            }
            _ => self.expected(what),
        }
    }

    fn module(&mut self) -> Result<Ast<'a>> {
        let mut ast = Ast::default();
        while self.peek().tok != Tok::End {
            if self.eat(";") {
                continue;
            }
            let word = self.peek();
            if word.tok != Tok::Dot {
                return self.expected("a directive such as `.entry`");
            }
            match word.text {
                "version" => {
                    self.next();
                    ast.version = self.version()?;
                }
                "target" => {
                    self.next();
                    ast.target = self.word("a target such as sm_90a")?.text.to_owned();
                    while self.eat(",") {
                        self.word("a target option")?;
                    }
                }
                "address_size" => {
                    self.next();
                    if self.int("32 or 64")? != 64 {
                        return Error::err(word.span, "only .address_size 64 is supported");
                    }
                }
                "file" => self.file(&mut ast)?,
                "section" => self.section()?,
                "pragma" | "alias" => self.skip_to_semicolon()?,
                "loc" => {
                    self.loc()?;
                }
                _ => self.item(&mut ast)?,
            }
        }
        Ok(ast)
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        let token = self.peek();
        let version = token.text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match version {
            Some(version) => {
                self.next();
                Ok(version)
            }
            None => self.expected("a version such as 8.0"),
        }
    }

    /// `.file 1 "path" [, timestamp, size]`
    fn file(&mut self, ast: &mut Ast<'a>) -> Result<()> {
        self.next();
        let number = self.int("a file number")?;
        let path = self.take(Tok::Str, "a path in quotes")?;
        while self.eat(",") {
            self.int("a time stamp or size")?;
        }
        ast.files.push((number, path.text.to_owned()));
        Ok(())
    }

    /// `.section .name { … }`, dropped.
    fn section(&mut self) -> Result<()> {
        self.next();
        let name = self.next();
        if !self.at("{") {
            return self.expected("`{`");
        }
        let mut open = 0_u32;
        loop {
            let token = self.next();
            match (token.tok, token.text) {
                (Tok::Punct, "{") => open += 1,
                (Tok::Punct, "}") => open -= 1,
                (Tok::End, _) => return Error::err(name.span, "this section is not closed"),
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    fn skip_to_semicolon(&mut self) -> Result<()> {
        let start = self.next();
        while !self.at(";") {
            if self.peek().tok == Tok::End {
                return Error::err(start.span, format!("no `;` after {}", shown(&start)));
            }
            self.next();
        }
        self.expect(";")
    }

    /// `.loc file line column [, function_name name[+n]] [, inlined_at file line column]`
    fn loc(&mut self) -> Result<Statement<'a>> {
        self.next();
        let file = self.int("a file number")?;
        let line = self.int("a line")?;
        self.int("a column")?;
        while self.eat(",") {
            match self.word("function_name or inlined_at")?.text {
                "function_name" => {
                    self.word("a label")?;
                    if self.eat("+") {
                        self.int("an offset")?;
                    }
                }
                "inlined_at" => {
                    for what in ["a file number", "a line", "a column"] {
                        self.int(what)?;
                    }
                }
                _ => {
                    self.pos -= 1;
                    return self.expected("function_name or inlined_at");
                }
            }
        }
        Ok(Statement::Loc { file, line: u32::try_from(line).unwrap_or(u32::MAX) })
    }

    /// A variable or function, with linkage words before it.
    fn item(&mut self, ast: &mut Ast<'a>) -> Result<()> {
        let mut external = false;
        loop {
            let word = self.peek();
            match (word.tok, word.text) {
                (Tok::Dot, "visible" | "weak" | "common" | "extern") => {
                    external |= word.text == "extern";
                    self.next();
                }
                (Tok::Dot, "entry" | "func") => {
                    self.next();
                    let function = self.function(word.text == "entry")?;
                    ast.functions.push(function);
                    return Ok(());
                }
                (Tok::Dot, text) if is_space(text) && text != "reg" && text != "param" => {
                    return self.variables(external, &mut |v| ast.variables.push(v));
                }
                _ => return self.expected("a directive such as `.entry`, `.func` or `.global`"),
            }
        }
    }

    fn function(&mut self, entry: bool) -> Result<Function<'a>> {
        // `.func .attribute(…) (returns) name (params) .noreturn { … }`
        while self.peek().tok == Tok::Dot {
            self.next();
            if self.eat("(") {
                while !self.at(")") && self.peek().tok != Tok::End {
                    self.next();
                }
                self.expect(")")?;
            }
        }
        let returns = if self.at("(") { self.parameters()? } else { Vec::new() };
        let name = self.word("a function name")?;
        let params = if self.at("(") { self.parameters()? } else { Vec::new() };
        let mut directives = Vec::new();
        while self.peek().tok == Tok::Dot {
            let directive = self.dot("a directive")?;
            if directive.text == "pragma" {
                self.pos -= 1;
                self.skip_to_semicolon()?;
                continue;
            }
            let mut values = Vec::new();
            while let Tok::Int { value, .. } = self.peek().tok {
                self.next();
                values.push(value);
                if !self.eat(",") {
                    break;
                }
            }
            directives.push((directive, values));
        }
        let body = if self.at("{") {
            Some(self.block(0)?)
        } else {
            self.expect(";")?;
            None
        };
        Ok(Function { name, entry, returns, params, directives, body })
    }

    fn block(&mut self, depth: u32) -> Result<Block<'a>> {
        let start = self.peek();
        if depth > MAX_BLOCKS {
            return Error::err(start.span, format!("blocks nested more than {MAX_BLOCKS} deep"));
        }
        self.expect("{")?;
        let mut statements = Vec::new();
        loop {
            let token = self.peek();
            match (token.tok, token.text) {
                (Tok::Punct, "}") => {
                    self.next();
                    return Ok(Block { statements, end: token.span });
                }
                (Tok::End, _) => {
                    let open = format!(
                        "expected `}}` for the block that opens at line {}, found the end of the file",
                        start.span.line
                    );
                    return Error::err(token.span, open);
                }
                (Tok::Punct, ";") => {
                    self.next();
                }
                (Tok::Punct, "{") => statements.push(Statement::Block(self.block(depth + 1)?)),
                (Tok::Word, _) if self.peek_at(1).text == ":" => self.label(&mut statements)?,
                (Tok::Dot, text) => self.directive(text, &mut statements)?,
                _ => statements.push(Statement::Instruction(self.instruction()?)),
            }
        }
    }

    /// The list of a directive such as `.branchtargets`.
    fn targets(&mut self, what: &str) -> Result<Vec<Word<'a>>> {
        self.next();
        let mut targets = vec![self.word(what)?];
        while self.eat(",") {
            targets.push(self.word(what)?);
        }
        self.expect(";")?;
        Ok(targets)
    }

    fn label(&mut self, statements: &mut Vec<Statement<'a>>) -> Result<()> {
        let name = self.word("a label")?;
        self.expect(":")?;
        match (self.peek().tok, self.peek().text) {
            (Tok::Dot, "branchtargets") => {
                let targets = self.targets("a label")?;
                statements.push(Statement::BranchTargets { name, targets });
            }
            (Tok::Dot, "calltargets") => {
                let targets = self.targets("a function")?;
                statements.push(Statement::CallTargets { name, targets });
            }
            (Tok::Dot, "callprototype") => {
                self.skip_to_semicolon()?;
                statements.push(Statement::CallTargets { name, targets: Vec::new() });
            }
            _ => statements.push(Statement::Label(name)),
        }
        Ok(())
    }

    fn directive(&mut self, text: &str, statements: &mut Vec<Statement<'a>>) -> Result<()> {
        match text {
            "loc" => statements.push(self.loc()?),
            "pragma" => self.skip_to_semicolon()?,
            "extern" => {
                self.next();
                self.variables(true, &mut |v: Variable<'a>| statements.push(Statement::Variable(v)))?;
            }
            _ if is_space(text) => {
                self.variables(false, &mut |v: Variable<'a>| statements.push(Statement::Variable(v)))?;
            }
            _ => return self.expected("a statement"),
        }
        Ok(())
    }

    fn instruction(&mut self) -> Result<Instruction<'a>> {
        let guard = if self.eat("@") {
            let negated = self.eat("!");
            Some(Guard { name: self.word("a predicate register")?, negated })
        } else {
            None
        };
        let opcode = self.word("an instruction")?;
        let mut modifiers = Vec::new();
        while self.peek().tok == Tok::Dot {
            modifiers.push(self.dot("a modifier")?);
        }
        self.call = opcode.text == "call";
        let operands = self.operands(";", 0)?;
        self.expect(";")?;
        Ok(Instruction { guard, opcode, modifiers, operands })
    }
}
