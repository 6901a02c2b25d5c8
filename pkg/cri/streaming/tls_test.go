package streaming

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/client-go/tools/remotecommand"
)

// writeIdentity writes a certificate of its own signing, and its key.
func writeIdentity(t *testing.T, files TLS, serial int64) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		files.CertFile: {Type: "CERTIFICATE", Bytes: der}, files.KeyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := errors.Join(os.WriteFile(name+".new", pem.EncodeToMemory(block), 0o600), os.Rename(name+".new", name)); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serial asks a server for the number of its certificate.
func serial(t *testing.T, s *Server, c *tls.Config) (int64, error) {
	t.Helper()
	c.InsecureSkipVerify = true
	conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", s.base.Host)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	// Only an answer shows that the server has accepted ours.
	if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return 0, err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return 0, err
	}
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	c := impatient()
	c.TLS = TLS{CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
	if _, err := Listen(t.Context(), c); err == nil {
		t.Fatal("listens without a certificate")
	}
	writeIdentity(t, c.TLS, 1)
	s := serve(t, c, &fakeRuntime{exec: cat})
	eachExecutor(t, func(t *testing.T, e executor) {
		var out bytes.Buffer
		err := e.stream(t.Context(), t, must1(t)(s.Exec(Exec{Wants: Wants{Stdin: true, Stdout: true}})), remotecommand.StreamOptions{Stdin: bytes.NewReader([]byte("secret")), Stdout: &out})
		if err != nil || out.String() != "secret" {
			t.Errorf("%q, %v", out.String(), err)
		}
	})
	want := int64(1)
	for _, change := range []func(){
		func() {},
		func() { writeIdentity(t, c.TLS, 2); want = 2 },
		func() { _ = os.WriteFile(c.TLS.CertFile, []byte("half"), 0o600) },
		func() { _ = os.Remove(c.TLS.KeyFile) },
		func() { writeIdentity(t, c.TLS, 3); want = 3 },
	} {
		change()
		if got, err := serial(t, s, &tls.Config{}); err != nil || got != want {
			t.Errorf("certificate %d, %v, want %d", got, err, want)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	c := impatient()
	c.TLS = TLS{CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), ClientCAFile: filepath.Join(dir, "ca")}
	ours := writeIdentity(t, TLS{CertFile: c.TLS.ClientCAFile, KeyFile: filepath.Join(dir, "ca.key")}, 7)
	stranger := writeIdentity(t, TLS{CertFile: filepath.Join(dir, "s"), KeyFile: filepath.Join(dir, "s.key")}, 8)
	writeIdentity(t, c.TLS, 1)
	s := serve(t, c, &fakeRuntime{})
	if _, err := serial(t, s, &tls.Config{Certificates: []tls.Certificate{ours}}); err != nil {
		t.Error(err)
	}
	for _, certificates := range [][]tls.Certificate{nil, {stranger}} {
		if _, err := serial(t, s, &tls.Config{Certificates: certificates}); err == nil {
			t.Errorf("a client with %d certificates is let in", len(certificates))
		}
	}
}

func TestListenRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"no TLS":         {Address: "0.0.0.0"},
		"no TLS, IPv6":   {Address: "::"},
		"host name":      {Address: "localhost"},
		"empty":          {},
		"half a TLS":     {Address: "127.0.0.1", TLS: TLS{CertFile: "x"}},
		"authority only": {Address: "127.0.0.1", TLS: TLS{ClientCAFile: "x"}},
	} {
		s, err := Listen(t.Context(), c)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		if s != nil {
			_ = s.Stop()
		}
	}
}

// TestCloseWithoutGoodbye closes the link to a client that is gone: over TLS that
// is an error, for which the SPDY library would leave a goroutine behind.
func TestCloseWithoutGoodbye(t *testing.T) {
	certificate := writeIdentity(t, TLS{CertFile: filepath.Join(t.TempDir(), "cert"), KeyFile: filepath.Join(t.TempDir(), "key")}, 1)
	near, far := net.Pipe()
	server := tls.Server(near, &tls.Config{Certificates: []tls.Certificate{certificate}})
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- server.HandshakeContext(t.Context()) }()
	if err := errors.Join(client.HandshakeContext(t.Context()), <-shaken); err != nil {
		t.Fatal(err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	if err := newLink(server, nil).Close(); err != nil {
		t.Error(err)
	}
	if _, err := near.Write([]byte("x")); err == nil {
		t.Error("the connection is open")
	}
}
