//! The second line of defence: takes out what looks like a secret. The first is that none is read. Pure.

/// What stands in a secret's place.
const REMOVED: &str = "(removed)";

/// Words whose value is a secret, in lower case. `key` alone is not one: BPF maps have keys.
const NAMES: [&str; 13] = [
    "token",
    "passphrase",
    "api_key",
    "api-key",
    "apikey",
    "password",
    "passwd",
    "secret",
    "private_key",
    "private-key",
    "privatekey",
    "preshared",
    "authorization",
];

/// Hexadecimal digits from which on a number is taken for a key: 16 bytes.
const KEY_DIGITS: usize = 32;

/// The text without what looks like a secret: the values of words like `token`, numbers as long as a key, and
/// what stands between the lines of PEM (RFC 7468).
pub(super) fn redact(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut in_pem = false;
    for line in text.split_inclusive('\n') {
        let (begin, end) = (line.rfind("-----BEGIN"), line.rfind("-----END"));
        if begin.is_some() {
            redacted.push_str(REMOVED);
            redacted.push('\n');
        } else if !in_pem {
            redacted.push_str(&without_keys(&without_values(line)));
        }
        if begin.is_some() || end.is_some() {
            // The next one may begin on the line on which this one ends.
            in_pem = begin > end;
        }
    }
    redacted
}

/// The line without the value of a word that names a secret: all from its `=` or `:` on.
fn without_values(line: &str) -> String {
    // Of ASCII only: places in both are the same.
    let lower = line.to_ascii_lowercase();
    let named = NAMES.iter().filter_map(|name| lower.find(name).map(|at| at + name.len())).min();
    let Some(end) = named else { return line.to_owned() };
    let Some(at) = line[end..].find(['=', ':']) else { return line.to_owned() };
    let newline = if line.ends_with('\n') { "\n" } else { "" };
    format!("{}{REMOVED}{newline}", &line[..=end + at])
}

/// The line without hexadecimal numbers that are as long as a key.
fn without_keys(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("0x") {
        let (before, number) = rest.split_at(at);
        let digits = number[2..].bytes().take_while(u8::is_ascii_hexdigit).count();
        kept.push_str(before);
        kept.push_str(if digits >= KEY_DIGITS { REMOVED } else { &number[..2 + digits] });
        rest = &number[2 + digits..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_taken_out() {
        for (text, expected) in [
            ("API_TOKEN=abc\nnext\n", "API_TOKEN=(removed)\nnext\n"),
            ("  \"password\": \"x y\",\n", "  \"password\":(removed)\n"),
            ("Authorization: Bearer é abc", "Authorization:(removed)"),
            ("é client_secret = s", "é client_secret =(removed)"),
            (
                "\tauth-trunc hmac(sha256) 0x000102030405060708090a0b0c0d0e0f1011 128\n",
                "\tauth-trunc hmac(sha256) (removed) 128\n",
            ),
            (
                "x\n-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\ny\n",
                "x\n(removed)\ny\n",
            ),
            ("-----BEGIN X----- abc -----END X-----\nz", "(removed)\nz"),
            (
                "-----BEGIN X-----\na\n-----END X----------BEGIN Y-----\nb\n-----END Y-----\nz",
                "(removed)\n(removed)\nz",
            ),
            ("api-key: a\nkey_passphrase=b\n", "api-key:(removed)\nkey_passphrase=(removed)\n"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn all_else_stays() {
        for text in [
            "",
            "flags 0x1f spi 0xdeadbeef\n",
            "  \"bytes_key\": 4,\n",
            "a token without a value\n",
            "0x",
            "2001:db8::1 dev eth0 lladdr 02:00:00:00:00:09\n",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
