// An S3 service over a folder of this machine: Versity's S3 gateway, its POSIX backend and one account.
//
// Not the gateway's own command: that also brings clients of other clouds, which would take minutes to compile.
// support/s3_server.py builds and starts it; nothing else calls it.
package main

import (
	"flag"
	"log"
	"os"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
)

func main() {
	address := flag.String("address", "127.0.0.1:0", "where it listens")
	folder := flag.String("folder", "", "holds the buckets")
	attributes := flag.String("attributes", "", "holds what S3 knows of each object beside its bytes")
	region := flag.String("region", "us-east-1", "what requests must be signed for")
	flag.Parse()
	// Secrets are no arguments: everybody on the machine sees those.
	account := auth.Account{Access: os.Getenv("S3_ACCESS_KEY"), Secret: os.Getenv("S3_SECRET_KEY"), Role: auth.RoleAdmin}
	if err := serve(*address, *folder, *attributes, *region, account); err != nil {
		log.Fatal(err)
	}
}

func serve(address, folder, attributes, region string, account auth.Account) error {
	objects, err := meta.NewSideCar(attributes)
	if err != nil {
		return err
	}
	backend, err := posix.New(folder, objects, posix.PosixOpts{SideCarDir: attributes, NewDirPerm: 0o755, Concurrency: 100})
	if err != nil {
		return err
	}
	accounts, err := auth.NewInternal(account, attributes)
	if err != nil {
		return err
	}
	root := middlewares.RootUserConfig{Access: account.Access, Secret: account.Secret}
	server, err := s3api.New(backend, root, region, accounts, nil, nil, nil, nil,
		s3api.WithHealth("/health"), s3api.WithQuiet(), s3api.WithKeepAlive(), s3api.WithConcurrencyLimiter(100, 100))
	if err != nil {
		return err
	}
	return server.ServeMultiPort([]string{address})
}
