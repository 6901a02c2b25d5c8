package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Auth is what the registry asks for. The zero value asks for nothing.
//
//	Username only             Basic challenge
//	Bearer                    token server at /token, which takes Username and
//	                          Password, or RefreshToken by OAuth; Token itself works too
type Auth struct {
	Username, Password string
	Bearer             bool
	// Token is what the token server gives and the registry accepts.
	Token string
	// RefreshToken is the identity token the token server accepts.
	RefreshToken string
}

// Require sets the credentials asked for.
func (r *Registry) Require(a Auth) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = a
}

func (a Auth) allows(q *http.Request) bool {
	if a.Bearer {
		return q.Header.Get("Authorization") == "Bearer "+a.Token
	}
	return a.Username == "" || a.basic(q)
}

func (a Auth) basic(q *http.Request) bool {
	user, password, ok := q.BasicAuth()
	return ok && user == a.Username && password == a.Password
}

func (a Auth) challenge(w http.ResponseWriter, addr string) {
	header := `Basic realm="test"`
	if a.Bearer {
		header = fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:any:pull"`, addr)
	}
	w.Header().Set("WWW-Authenticate", header)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`))
}

// token is the token server: GET with Basic credentials, or POST with an OAuth
// grant (refresh_token or password).
func (a Auth) token(w http.ResponseWriter, q *http.Request) {
	ok := a.Username != "" && a.basic(q)
	if q.Method == http.MethodPost && q.ParseForm() == nil {
		switch q.PostForm.Get("grant_type") {
		case "refresh_token":
			ok = a.RefreshToken != "" && q.PostForm.Get("refresh_token") == a.RefreshToken
		case "password":
			ok = a.Username != "" && q.PostForm.Get("username") == a.Username && q.PostForm.Get("password") == a.Password
		}
	}
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": a.Token, "access_token": a.Token, "expires_in": 300})
}
