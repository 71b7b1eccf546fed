//! The syntax tree: borrowed words of the text, each with its place.
//!
//! Nothing is resolved here: a [`Expr::Name`] may be a register, a variable, a label or a function, and `.f32` is a word.

use super::Span;

/// A word with its place; for a modifier or type without the leading dot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'a> {
    pub text: &'a str,
    pub span: Span,
}

/// A whole file.
#[derive(Debug, Default)]
pub(crate) struct Ast<'a> {
    pub version: (u32, u32),
    pub target: String,
    /// `.file` directives in order of appearance: number, path.
    pub files: Vec<(u64, String)>,
    pub variables: Vec<Variable<'a>>,
    pub functions: Vec<Function<'a>>,
}

/// `.entry` or `.func`, with or without a body.
#[derive(Debug)]
pub(crate) struct Function<'a> {
    pub name: Word<'a>,
    pub entry: bool,
    pub returns: Vec<Variable<'a>>,
    pub params: Vec<Variable<'a>>,
    /// `.maxntid 128, 1, 1` and its like.
    pub directives: Vec<(Word<'a>, Vec<u64>)>,
    pub body: Option<Block<'a>>,
}

/// The statements between two braces.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    pub statements: Vec<Statement<'a>>,
    /// The closing brace.
    pub end: Span,
}

/// A declaration: register, variable or parameter.
#[derive(Debug)]
pub(crate) struct Variable<'a> {
    pub name: Word<'a>,
    /// `reg`, `global`, `const`, `shared`, `local`, `param`.
    pub space: Word<'a>,
    /// Declared `.extern`.
    pub external: bool,
    pub align: Option<u64>,
    /// Elements of `.v2`, `.v4`; 1 otherwise.
    pub vector: u32,
    pub ty: Word<'a>,
    /// `name<count>`.
    pub range: Option<u64>,
    /// `name[4][2]`; `None` is `[]`.
    pub dims: Vec<Option<Expr<'a>>>,
    pub init: Option<Init<'a>>,
    /// `.attribute(.managed)`
    pub managed: bool,
}

/// An initialiser.
#[derive(Debug)]
pub(crate) enum Init<'a> {
    Value(Expr<'a>),
    List(Vec<Init<'a>>),
}

#[derive(Debug)]
pub(crate) enum Statement<'a> {
    Block(Block<'a>),
    Label(Word<'a>),
    Variable(Variable<'a>),
    Instruction(Instruction<'a>),
    /// `.loc`: file number and line.
    Loc {
        file: u64,
        line: u32,
    },
    /// `name: .calltargets f, g;`, or `name: .callprototype …;`, which names none.
    CallTargets {
        name: Word<'a>,
        targets: Vec<Word<'a>>,
    },
    /// `name: .branchtargets a, b;`
    BranchTargets {
        name: Word<'a>,
        targets: Vec<Word<'a>>,
    },
}

#[derive(Debug)]
pub(crate) struct Guard<'a> {
    pub name: Word<'a>,
    pub negated: bool,
}

#[derive(Debug)]
pub(crate) struct Instruction<'a> {
    pub guard: Option<Guard<'a>>,
    pub opcode: Word<'a>,
    pub modifiers: Vec<Word<'a>>,
    pub operands: Vec<Operand<'a>>,
}

#[derive(Debug)]
pub(crate) struct Operand<'a> {
    pub span: Span,
    pub kind: OperandKind<'a>,
}

#[derive(Debug)]
pub(crate) enum OperandKind<'a> {
    /// Register, symbol, constant, or a sum of them.
    Expr(Expr<'a>),
    /// `_`
    Sink,
    /// `!p`
    Not(Word<'a>),
    /// `p|q`
    Pair(Box<(Operand<'a>, Operand<'a>)>),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `[a]`, `[a, {b, c}]`
    Address(Vec<Operand<'a>>),
    /// `(a, b)`: arguments of a call.
    List(Vec<Operand<'a>>),
}

/// Unary operators of constant expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Plus,
    Minus,
    Complement,
    Not,
    CastSigned,
    CastUnsigned,
}

/// Binary operators of constant expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Mul,
    Div,
    Rem,
    Add,
    Sub,
    Shl,
    Shr,
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    And,
    Xor,
    Or,
    LogicalAnd,
    LogicalOr,
}

#[derive(Debug)]
pub(crate) enum Expr<'a> {
    Int {
        value: u64,
        unsigned: bool,
    },
    /// `0f3F800000`
    F32(u32),
    /// `0d…` or a decimal literal.
    F64(u64),
    Name(Word<'a>),
    /// `%tid.x`
    Member(Word<'a>, Word<'a>),
    /// `generic(symbol)`
    Generic(Word<'a>),
    Unary(Unary, Box<Expr<'a>>),
    Binary(Span, Binary, Box<(Expr<'a>, Expr<'a>)>),
    /// `a ? b : c`
    Select(Box<(Expr<'a>, Expr<'a>, Expr<'a>)>),
}
