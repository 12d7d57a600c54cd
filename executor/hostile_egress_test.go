package executor_test

import (
	"strings"
	"testing"
)

// Nothing leaves a sandbox but connections of TCP to a name that was looked up, at
// a port that is granted. What is tried: addresses of every kind, other protocols,
// and listeners that are not what they seem.
func TestHostileConnections(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	for name, c := range map[string]struct{ code, want string }{
		"an address outside": {`
for address in ('1.1.1.1', '169.254.169.254', '168.63.129.16', '100.100.100.200', '10.0.0.1', '172.17.0.1', '192.168.0.1', '224.0.0.1'):
    s = socket.socket(); s.settimeout(2)
    assert failure(s.connect, (address, 443)) == 'OSError', address
print('none')`, "none"},
		"an address outside, in other words": {`
for address in ('0x01010101', '16843009', '1.1', '0251.0376.0251.0376'):
    assert failure(talk, address, 443) in ('OSError', 'gaierror', 'TimeoutError'), address
print('none')`, "none"},
		"IPv6": {`
for address in ('2606:4700:4700::1111', '::ffff:1.1.1.1', 'fe80::1', 'fd00:ec2::254', '64:ff9b::101:101', '::1'):
    s = socket.socket(socket.AF_INET6); s.settimeout(2)
    assert failure(s.connect, (address, 443)) in ('OSError', 'ConnectionRefusedError'), address
try: print(socket.getaddrinfo('db.example', 443, socket.AF_INET6))
except socket.gaierror: print('none')`, "none"},
		"UDP": {`
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.2)
for address in ('1.1.1.1', '8.8.8.8'):
    assert failure(s.sendto, b'x', (address, 53)) == 'OSError'
s.sendto(b'x', (socket.gethostbyname('db.example'), 443))
print(failure(s.recv, 1))`, "TimeoutError"},
		"ICMP": {`
for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
    try:
        s = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
        s.sendto(b'\x08\x00\xf7\xff\x00\x00\x00\x00', ('1.1.1.1', 0))
        print('sent')
    except OSError: pass
print('none')`, "none"},
		"a loopback address of no name": {`
own = socket.gethostbyname('db.example')
for address in ('127.0.0.1', '127.0.0.2', '127.1.2.3', '127.64.9.9', '127.127.255.255', '0.0.0.0'):
    assert failure(talk, address, 443) in ('reset', 'ConnectionRefusedError'), address
print(own, talk(own, 443))`, `127.64.0.1 b'db.example:443\nhello\nend\n'`},
		"a port that is not granted": {`
own = socket.gethostbyname('db.example')
for port in (1, 22, 53, 80, 444, 8443, 65535):
    assert failure(talk, own, port) == 'ConnectionRefusedError', port
print('none')`, "none"},
		"the name in the address's place": {`
for name in ('db.example@evil', 'db.example/..', 'db..example', '.db.example', 'x' * 64 + '.example', 'db.example:80', ' db.example', '*.api.example'):
    try: talk(name, 443); print(name)
    except (OSError, UnicodeError, ValueError): pass
print('none')`, "none"},
		"a listener of its own": {`
for at in ('0.0.0.0', '127.0.0.1', '127.64.0.1', socket.gethostbyname('db.example')):
    for kind, port in ((socket.SOCK_STREAM, 443), (socket.SOCK_STREAM, 53), (socket.SOCK_DGRAM, 53)):
        if port == 53 and at.startswith('127.64.'): continue
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            s = socket.socket(socket.AF_INET, kind); s.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                s.bind((at, port))
                if kind == socket.SOCK_STREAM: s.listen()
                print('listens', at, port)
            except OSError: pass
print(talk('db.example', 443))`, `b'db.example:443\nhello\nend\n'`},
		"names without end": {`
for i in range(5000):
    try: last = socket.gethostbyname(f'n{i}.api.example')
    except socket.gaierror: break
print(i, last, talk('n7.api.example', 443)[:17])`, `4096 127.64.16.0 b'n7.api.example:44'`},
		"connections that say nothing": {`
held = [socket.create_connection(('db.example', 443), 60) for _ in range(60)]
more = [failure(talk, 'db.example', 443) for _ in range(200)]
for s in held: s.close()
print(set(more) == {'reset'})`, "True"},
		"connections that are reset": {`
for _ in range(300):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    failure(s.connect, ('db.example', 443)); s.close()
got = failure(talk, 'db.example', 443)
while got == 'reset': time.sleep(0.05); got = failure(talk, 'db.example', 443)
print(got)`, `b'db.example:443\nhello\nend\n'`},
		"names that are long": {`
n = '.'.join(['a' * 63] * 3 + ['b' * 61])
print(talk(n, 443) == n.encode() + b':443\nhello\nend\n')`, "True"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underEach(t, func(t *testing.T, runtime string) {
				r := run(t, e, networked(under(runtime, python(dial+c.code)), reaching(443)))
				out := exitedWell(t, r)
				if runtime == "runsc" {
					// There a program can listen beside the agent, and then talks to itself.
					out = out[strings.LastIndexByte(out, '\n')+1:]
				}
				if out != c.want {
					t.Errorf("want %s: %s", c.want, describe(r))
				}
				for _, to := range egress.seenOf(t, "ex_test_"+t.Name()) {
					if !strings.HasSuffix(to, ".example:443") && !strings.Contains(to, "bbbb:443") {
						t.Errorf("carried: %s", to)
					}
				}
			})
		})
	}
}

// The resolver answers or does not, whatever it is asked, and asks nobody.
func TestHostileQueries(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	const ask = dial + `
def name(text): return b''.join(bytes([len(l)]) + l.encode() for l in text.split('.')) + b'\0'
def query(n, typ, cls=1, flags=0x0100, counts=(1, 0, 0, 0)): return struct.pack('>HH4H', 7, flags, *counts) + n + struct.pack('>HH', typ, cls)
def udp(message, wanted=True): # datagrams may be lost: a client asks again
    for _ in range(30 if wanted else 1):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.3); s.connect(('127.0.0.1', 53)); s.send(message)
        try: return s.recv(65536)
        except TimeoutError: pass
    return b''
def tcp(message, wanted=True, length=None):
    with socket.create_connection(('127.0.0.1', 53), 60) as s:
        try:
            s.sendall(struct.pack('>H', len(message) if length is None else length) + message)
            if length is not None: s.shutdown(socket.SHUT_WR)
            got = b''
            while len(got) < 2 or len(got) < 2 + struct.unpack('>H', got[:2])[0]:
                piece = s.recv(65536)
                if not piece: return got
                got += piece
            return got[2:]
        except (ConnectionResetError, BrokenPipeError): return b''
def code(answer): return (answer[3] & 15, struct.unpack('>H', answer[6:8])[0]) if answer else None
n = name('db.example')
cases = {
    'A': (query(n, 1), (0, 1)), 'AAAA': (query(n, 28), (0, 0)), 'TXT': (query(n, 16), (0, 0)), 'MX': (query(n, 15), (0, 0)),
    'ANY': (query(n, 255), (0, 0)), 'AXFR': (query(n, 252), (5, 0)), 'IXFR': (query(n, 251), (5, 0)), 'NULL': (query(n, 10), (0, 0)),
    'HTTPS': (query(n, 65), (0, 0)), 'PTR': (query(name('1.0.64.127.in-addr.arpa'), 12), (0, 0)), 'chaos': (query(name('version.bind'), 16, 3), (5, 0)),
    'update': (query(n, 6, flags=0x2800), (4, 0)), 'notify': (query(n, 6, flags=0x2000), (4, 0)), 'answer': (query(n, 1, flags=0x8180), None),
    'two': (query(n, 1, counts=(2, 0, 0, 0)) + n + b'\0\1\0\1', (1, 0)), 'none': (query(b'', 1, counts=(0, 0, 0, 0))[:12], (1, 0)),
    'loop': (query(b'\xc0\x0c', 1), (1, 0)), 'circle': (query(b'\x01a\xc0\x0e\xc0\x0c', 1), (1, 0)), 'past': (query(b'\xff\xff', 1), (1, 0)),
    'counts': (query(n, 1, counts=(1, 65535, 65535, 65535)), (1, 0)), 'short': (b'\0\7\1', None),
    'huge': (query(n, 1) + bytes(3000), (0, 1)),
}
for what, (message, want) in cases.items():
    for way in (udp, tcp):
        got = code(way(message, want is not None))
        if got != want: print(what, way.__name__, got, want)
udp(query(n, 1, counts=(1, 0, 0, 0)) + bytes(60000), False)
assert tcp(query(n, 1) + bytes(60000)) == b'' and tcp(query(n, 1), length=4000) == b'' and tcp(b'', length=0) == b''
held = [failure(socket.create_connection, ('127.0.0.1', 53), 2) for _ in range(40)] # and nothing is said on them
for _ in range(2000): udp_ = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp_.sendto(os.urandom(100), ('127.0.0.1', 53)); udp_.close()
got = udp(query(n, 1))
assert code(got) == (0, 1), got
print(talk('db.example', 443))
`
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, networked(under(runtime, python(ask)), reaching(443)))
		if out := exitedWell(t, r); out != `b'db.example:443\nhello\nend\n'` {
			t.Errorf("%s", describe(r))
		}
		if seen := egress.seen(t); len(seen) != 1 {
			t.Errorf("carried: %v", seen)
		}
	})
}

// The resolver's own port can be granted too.
func TestPortOfTheResolverIsGranted(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, networked(under(runtime, python(dial+`print(talk('db.example', 53), failure(talk, '127.0.0.1', 53) in (b'', 'reset'), talk('db.example', 443)[:3])`)), reaching(53, 443)))
		if out := exitedWell(t, r); out != `b'db.example:53\nhello\nend\n' True b'db.'` {
			t.Errorf("%s", describe(r))
		}
		egress.seen(t)
	})
}
