package streaming

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"
)

// TLS names the files of the server's identity. They are looked at for each
// connection, so that a renewed certificate is used at once.
type TLS struct {
	// CertFile and KeyFile are PEM; without them there is no TLS.
	CertFile, KeyFile string
	// ClientCAFile, where set, has the authorities one of which must have signed
	// the certificate of each client.
	ClientCAFile string
}

func (t TLS) enabled() bool { return t.CertFile != "" || t.KeyFile != "" || t.ClientCAFile != "" }

// config returns nil without TLS. The files must be good now; when they are not
// any more later, what they last were stays in use.
func (t TLS) config(log klog.Logger) (*tls.Config, error) {
	if !t.enabled() {
		return nil, nil
	}
	if t.CertFile == "" || t.KeyFile == "" {
		return nil, fmt.Errorf("TLS needs both a certificate and a key: %w", errdefs.ErrInvalidArgument)
	}
	l := &identity{files: t, log: log}
	if err := l.load(l.stamps()); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.current(), nil },
	}, nil
}

// identity is the configuration that the files make up.
type identity struct {
	files TLS
	log   klog.Logger

	mu     sync.Mutex
	loaded [3]stamp
	config *tls.Config
}

// stamp tells versions of a file apart.
type stamp struct {
	modified time.Time
	size     int64
	inode    os.FileInfo
}

func (s stamp) same(o stamp) bool {
	return s.modified.Equal(o.modified) && s.size == o.size &&
		(s.inode == nil && o.inode == nil || s.inode != nil && o.inode != nil && os.SameFile(s.inode, o.inode))
}

// stamps looks at the files; one that is not there has the zero stamp.
func (l *identity) stamps() (s [3]stamp) {
	for i, name := range []string{l.files.CertFile, l.files.KeyFile, l.files.ClientCAFile} {
		if st, err := os.Stat(name); err == nil {
			s[i] = stamp{modified: st.ModTime(), size: st.Size(), inode: st}
		}
	}
	return s
}

// current returns what the files say, or last said when they were good.
func (l *identity) current() *tls.Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.stamps()
	if now[0].same(l.loaded[0]) && now[1].same(l.loaded[1]) && now[2].same(l.loaded[2]) {
		return l.config
	}
	// Of a pair that is being replaced one file may be new and one old: the
	// next connection tries again, because the stamps will have changed.
	if err := l.load(now); err != nil {
		l.loaded = now // said once for each state of the files
		l.log.Error(err, "The streaming server goes on with its earlier certificate")
	}
	return l.config
}

func (l *identity) load(at [3]stamp) error {
	pair, err := tls.LoadX509KeyPair(l.files.CertFile, l.files.KeyFile)
	if err != nil {
		return fmt.Errorf("load certificate: %w", err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"http/1.1"}, // HTTP/2 has no upgrades
	}
	if l.files.ClientCAFile != "" {
		pem, err := os.ReadFile(l.files.ClientCAFile)
		if err != nil {
			return fmt.Errorf("load certificates of clients' authorities: %w", err)
		}
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("load certificates of clients' authorities: %w", errors.New(l.files.ClientCAFile+" has none"))
		}
	}
	l.loaded, l.config = at, config
	return nil
}
