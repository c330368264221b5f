# Prints a JSON document as lines "path<TAB>value"; names and list indexes of a path are joined by dots.
# Backslash escapes are resolved but \u, and a newline inside a value stays the two characters \n.

BEGIN { RS = "\001"; depth = 0 }

function unescape(text) {
    sub(/(\\n)+$/, "", text)
    gsub(/\\"/, "\"", text)
    gsub(/\\\//, "/", text)
    gsub(/\\\\/, "\\", text)
    return text
}

function path(   i, out) {
    for (i = 1; i <= depth; i++) out = out (i > 1 ? "." : "") key[i]
    return out
}

# Before each value in a list: the next index.
function index_value() {
    if (kind[depth] == "[") key[depth] = count[depth]++
}

function value(text) {
    if (kind[depth] == "{" && !have_key) {
        key[depth] = text
        have_key = 1
        return
    }
    index_value()
    print path() "\t" text
    have_key = 0
}

{
    rest = $0
    while (match(rest, /"([^"\\]|\\.)*"|[{}]|\[|\]|[^][{}",: \t\r\n]+/)) {
        token = substr(rest, RSTART, RLENGTH)
        rest = substr(rest, RSTART + RLENGTH)
        first = substr(token, 1, 1)
        if (first == "{" || first == "[") {
            index_value()
            kind[++depth] = first
            count[depth] = 0
            have_key = 0
        } else if (first == "}" || first == "]") {
            depth--
            have_key = 0
        } else if (first == "\"") {
            value(unescape(substr(token, 2, length(token) - 2)))
        } else {
            value(token)
        }
    }
}
