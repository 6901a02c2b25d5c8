package main

import (
	"io"
	"log/slog"
	"strconv"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
)

// newLogger makes the logger of the process, which klog.FromContext falls back
// to, and what changes its level later.
func newLogger(w io.Writer, c config.Log) (logger klog.Logger, setLevel func(level int) error) {
	if c.Format == config.FormatJSON {
		level := new(slog.LevelVar)
		level.Set(slog.Level(-c.Level))
		handler := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: plainLevel})
		klog.SetSlogLogger(slog.New(handler))
		return klog.Background(), func(l int) error { level.Set(slog.Level(-l)); return nil }
	}
	text := textlogger.NewConfig(textlogger.Output(w), textlogger.Verbosity(c.Level))
	setLevel = func(level int) error { return text.Verbosity().Set(strconv.Itoa(level)) }
	logger = textlogger.NewLogger(text)
	klog.SetLoggerWithOptions(logger, klog.ContextualLogger(true))
	return logger, setLevel
}

// plainLevel prints what slog calls DEBUG-1 and the like, the levels of V(1) and
// up, as what they are to us: information.
func plainLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 || a.Key != slog.LevelKey {
		return a
	}
	if level, ok := a.Value.Any().(slog.Level); ok && level < slog.LevelInfo {
		return slog.Int("v", int(-level))
	}
	return a
}
