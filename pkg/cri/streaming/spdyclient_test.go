package streaming

import (
	"net/http"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport/spdy"
)

func spdyRoundTripper(c *rest.Config) (http.RoundTripper, spdy.Upgrader, error) {
	return spdy.RoundTripperFor(c)
}
