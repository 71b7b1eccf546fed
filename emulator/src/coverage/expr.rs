//! Expressions of the instruction tests: how inputs are made and what is expected of them.
//!
//! Integers (exact, 128 bits), floats, hexadecimal bits, `inf`, `nan`, C's operators, `c ? a : b`, and
//! * `lane` (in a table) or `i` (in a kernel's buffers): which element is being written;
//! * `name[index]`: an element of an input buffer;
//! * `sum(k, n, expression)`: over k = 0 … n−1; `min(a, b)`, `max(a, b)`, `abs(a)`, `popc(a)`.

use super::value::Value;

/// Where names are looked up.
pub trait Scope {
    /// A variable.
    fn variable(&self, name: &str) -> Option<Value>;
    /// An element of an array.
    fn element(&self, name: &str, index: i128) -> Option<Result<Value, String>>;
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Value(Value),
    Name(String),
    Index(String, Box<Node>),
    Call(String, Vec<Node>),
    Sum(String, Box<Node>, Box<Node>),
    Unary(char, Box<Node>),
    Binary(&'static str, Box<Node>, Box<Node>),
    Choose(Box<Node>, Box<Node>, Box<Node>),
}

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr(Node);

/// Operators by falling precedence of the groups' end.
const LEVELS: &[&[&str]] = &[
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&mut self) -> &str {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn need(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(format!("expected `{token}` at `{}`", self.rest())) }
    }

    fn choice(&mut self) -> Result<Node, String> {
        let condition = self.level(0)?;
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.choice()?;
        self.need(":")?;
        let no = self.choice()?;
        Ok(Node::Choose(Box::new(condition), Box::new(yes), Box::new(no)))
    }

    fn level(&mut self, level: usize) -> Result<Node, String> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.level(level + 1)?;
        'next: loop {
            let rest = self.rest().to_string();
            for operator in *operators {
                // `<` is not the beginning of `<<`, nor `|` of `||`.
                let doubled = operator.len() == 1 && rest[1.min(rest.len())..].starts_with(operator);
                if rest.starts_with(operator) && !(doubled && "|&<>".contains(operator)) {
                    self.at += operator.len();
                    let right = self.level(level + 1)?;
                    left = Node::Binary(operator, Box::new(left), Box::new(right));
                    continue 'next;
                }
            }
            return Ok(left);
        }
    }

    fn unary(&mut self) -> Result<Node, String> {
        for sign in ['-', '~', '!'] {
            if self.take(&sign.to_string()) {
                return Ok(Node::Unary(sign, Box::new(self.unary()?)));
            }
        }
        if self.take("(") {
            let inner = self.choice()?;
            self.need(")")?;
            return Ok(inner);
        }
        let rest = self.rest();
        let word: String = {
            let mut end = 0;
            let bytes = rest.as_bytes();
            let number = rest.starts_with(|c: char| c.is_ascii_digit());
            while end < bytes.len() {
                let c = bytes[end] as char;
                let exponent = number
                    && !rest.starts_with("0x")
                    && (c == '-' || c == '+')
                    && end > 0
                    && bytes[end - 1] == b'e';
                if c.is_ascii_alphanumeric() || c == '_' || number && c == '.' || exponent {
                    end += 1;
                } else {
                    break;
                }
            }
            rest[..end].to_string()
        };
        if word.is_empty() {
            return Err(format!("expected a value at `{rest}`"));
        }
        self.at += word.len();
        if let Some(hex) = word.strip_prefix("0x") {
            let bits = u128::from_str_radix(&hex.replace('_', ""), 16).map_err(|e| format!("{word}: {e}"))?;
            return Ok(Node::Value(Value::Bits(bits)));
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let value = match word.parse::<i128>() {
                Ok(v) => Value::Int(v),
                Err(_) => Value::Float(word.parse().map_err(|e| format!("{word}: {e}"))?),
            };
            return Ok(Node::Value(value));
        }
        match word.as_str() {
            "inf" => return Ok(Node::Value(Value::Float(f64::INFINITY))),
            "nan" => return Ok(Node::Value(Value::Float(f64::NAN))),
            _ => {}
        }
        if self.take("[") {
            let index = self.choice()?;
            self.need("]")?;
            return Ok(Node::Index(word, Box::new(index)));
        }
        if !self.take("(") {
            return Ok(Node::Name(word));
        }
        let mut arguments = vec![self.choice()?];
        while self.take(",") {
            arguments.push(self.choice()?);
        }
        self.need(")")?;
        match (word.as_str(), <[Node; 3]>::try_from(arguments)) {
            ("sum", Ok([Node::Name(name), count, body])) => {
                Ok(Node::Sum(name, Box::new(count), Box::new(body)))
            }
            ("sum", _) => Err("sum(k, n, expression)".into()),
            (_, Ok(three)) => Ok(Node::Call(word, three.into())),
            (_, Err(arguments)) => Ok(Node::Call(word, arguments)),
        }
    }
}

struct Bound<'a> {
    outer: &'a dyn Scope,
    name: &'a str,
    value: i128,
}

impl Scope for Bound<'_> {
    fn variable(&self, name: &str) -> Option<Value> {
        if name == self.name { Some(Value::Int(self.value)) } else { self.outer.variable(name) }
    }

    fn element(&self, name: &str, index: i128) -> Option<Result<Value, String>> {
        self.outer.element(name, index)
    }
}

fn arithmetic(operator: &str, a: Value, b: Value) -> Result<Value, String> {
    let truth = |v: bool| Value::Int(v.into());
    if matches!(a, Value::Float(_)) || matches!(b, Value::Float(_)) {
        let (x, y) = (a.float(), b.float());
        return Ok(match operator {
            "+" => Value::Float(x + y),
            "-" => Value::Float(x - y),
            "*" => Value::Float(x * y),
            "/" => Value::Float(x / y),
            "<" => truth(x < y),
            ">" => truth(x > y),
            "<=" => truth(x <= y),
            ">=" => truth(x >= y),
            "==" => truth(x == y),
            "!=" => truth(x != y),
            _ => return Err(format!("`{operator}` needs integers")),
        });
    }
    let (x, y) = (a.int()?, b.int()?);
    let wrapped = match operator {
        "+" => x.checked_add(y),
        "-" => x.checked_sub(y),
        "*" => x.checked_mul(y),
        "/" => x.checked_div(y),
        "%" => x.checked_rem(y),
        "<<" => u32::try_from(y).ok().and_then(|y| x.checked_shl(y)),
        ">>" => u32::try_from(y).ok().and_then(|y| x.checked_shr(y)),
        "&" => Some(x & y),
        "|" => Some(x | y),
        "^" => Some(x ^ y),
        "<" => return Ok(truth(x < y)),
        ">" => return Ok(truth(x > y)),
        "<=" => return Ok(truth(x <= y)),
        ">=" => return Ok(truth(x >= y)),
        "==" => return Ok(truth(x == y)),
        "!=" => return Ok(truth(x != y)),
        "&&" => return Ok(truth(x != 0 && y != 0)),
        "||" => return Ok(truth(x != 0 || y != 0)),
        _ => None,
    };
    wrapped.map(Value::Int).ok_or_else(|| format!("{x} {operator} {y} has no value"))
}

fn eval(node: &Node, scope: &dyn Scope) -> Result<Value, String> {
    match node {
        Node::Value(value) => Ok(*value),
        Node::Name(name) => scope.variable(name).ok_or_else(|| format!("no variable `{name}`")),
        Node::Index(name, index) => {
            let index = eval(index, scope)?.int()?;
            scope.element(name, index).ok_or_else(|| format!("no input `{name}`"))?
        }
        Node::Unary(sign, inner) => match (sign, eval(inner, scope)?) {
            ('-', Value::Float(v)) => Ok(Value::Float(-v)),
            ('-', v) => Ok(Value::Int(-v.int()?)),
            ('~', v) => Ok(Value::Int(!v.int()?)),
            (_, v) => Ok(Value::Int((v.int()? == 0).into())),
        },
        Node::Binary(operator, a, b) => arithmetic(operator, eval(a, scope)?, eval(b, scope)?),
        Node::Choose(condition, yes, no) => {
            let chosen = if eval(condition, scope)?.int()? != 0 { yes } else { no };
            eval(chosen, scope)
        }
        Node::Sum(name, count, body) => {
            let mut total = Value::Int(0);
            for value in 0..eval(count, scope)?.int()? {
                let term = eval(body, &Bound { outer: scope, name, value })?;
                total = arithmetic("+", total, term)?;
            }
            Ok(total)
        }
        Node::Call(name, arguments) => {
            let values: Vec<Value> = arguments.iter().map(|a| eval(a, scope)).collect::<Result<_, _>>()?;
            match (name.as_str(), &values[..]) {
                ("min", [a, b]) => Ok(if a.float() <= b.float() { *a } else { *b }),
                ("max", [a, b]) => Ok(if a.float() >= b.float() { *a } else { *b }),
                ("abs", [Value::Float(a)]) => Ok(Value::Float(a.abs())),
                ("abs", [a]) => Ok(Value::Int(a.int()?.abs())),
                ("popc", [a]) => Ok(Value::Int(a.int()?.count_ones().into())),
                _ => Err(format!("no function `{name}` of {} arguments", values.len())),
            }
        }
    }
}

impl Expr {
    /// Reads a whole text.
    pub fn parse(text: &str) -> Result<Expr, String> {
        let mut reader = Reader { text, at: 0 };
        let node = reader.choice()?;
        match reader.rest() {
            "" => Ok(Expr(node)),
            rest => Err(format!("`{rest}` after the expression")),
        }
    }

    /// Its value.
    pub fn eval(&self, scope: &dyn Scope) -> Result<Value, String> {
        eval(&self.0, scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Four;

    impl Scope for Four {
        fn variable(&self, name: &str) -> Option<Value> {
            (name == "i").then_some(Value::Int(4))
        }

        fn element(&self, name: &str, index: i128) -> Option<Result<Value, String>> {
            (name == "a").then_some(Ok(Value::Int(index * 10)))
        }
    }

    #[test]
    fn expressions() {
        let value = |text: &str| Expr::parse(text).unwrap().eval(&Four).unwrap();
        assert_eq!(value("1 + 2*3 - -4"), Value::Int(11));
        assert_eq!(value("i<<2|1"), Value::Int(17));
        assert_eq!(value("i < 3 || i >= 4 && i != 5 ? a[i+1] : 7"), Value::Int(50));
        assert_eq!(value("sum(k, 3, a[k] + k)"), Value::Int(33));
        assert_eq!(value("-0.0"), Value::Float(-0.0));
        assert_eq!(value("1e-3*2"), Value::Float(0.002));
        assert_eq!(value("0xff"), Value::Bits(255));
        assert_eq!(value("(0x10 ^ i) % 7"), Value::Int(6));
        assert_eq!(value("max(popc(7), 2)"), Value::Int(3));
        assert!(Expr::parse("1 +").is_err());
        assert!(Expr::parse("1 2").is_err());
        assert!(Expr::parse("b[1]").unwrap().eval(&Four).is_err());
    }
}
