// Uses Google's client for Cloud Tasks, and writes what came of it.
//
//	google_tasks HOST:PORT QUEUE URL
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"
	"time"

	cloudtasks "cloud.google.com/go/cloudtasks/apiv2"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	taskspb "google.golang.org/genproto/googleapis/cloud/tasks/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func code(err error) string { return status.Code(err).String() }

func main() {
	address, queue, url := os.Args[1], os.Args[2], os.Args[3]
	ctx := context.Background() // the service refuses a deadline of more than 30 s
	client, err := cloudtasks.NewClient(ctx,
		option.WithEndpoint(address),
		option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	check(err)
	defer client.Close()
	result := map[string]any{}

	create := &taskspb.CreateQueueRequest{
		Parent: queue[:strings.Index(queue, "/queues/")],
		Queue:  &taskspb.Queue{Name: queue, RetryConfig: &taskspb.RetryConfig{MaxAttempts: 3}},
	}
	made, err := client.CreateQueue(ctx, create)
	check(err)
	result["queue"] = made.Name
	_, err = client.CreateQueue(ctx, create)
	result["again"] = code(err)

	paused, err := client.PauseQueue(ctx, &taskspb.PauseQueueRequest{Name: queue})
	check(err)
	result["paused"] = paused.State.String()
	task := func(id string, due time.Time, body string) *taskspb.CreateTaskRequest {
		return &taskspb.CreateTaskRequest{Parent: queue, Task: &taskspb.Task{
			Name:         queue + "/tasks/" + id,
			ScheduleTime: timestamppb.New(due),
			MessageType: &taskspb.Task_HttpRequest{HttpRequest: &taskspb.HttpRequest{
				Url: url, HttpMethod: taskspb.HttpMethod_PUT, Body: []byte(body),
				Headers: map[string]string{"Content-Type": "application/json"},
				AuthorizationHeader: &taskspb.HttpRequest_OidcToken{OidcToken: &taskspb.OidcToken{
					ServiceAccountEmail: "worker@demo.iam.gserviceaccount.com", Audience: "reports"}},
			}},
		}}
	}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		_, err := client.CreateTask(ctx, task(id, time.Now().Add(time.Hour), "{}"))
		check(err)
	}
	_, err = client.CreateTask(ctx, task("a", time.Now(), "{}"))
	result["taken"] = code(err)
	listed := []string{}
	pages := 0
	tasks := client.ListTasks(ctx, &taskspb.ListTasksRequest{Parent: queue, PageSize: 2})
	pager := iterator.NewPager(tasks, 2, "")
	for token := "next"; token != ""; pages++ {
		var page []*taskspb.Task
		token, err = pager.NextPage(&page)
		check(err)
		for _, one := range page {
			listed = append(listed, one.Name[len(queue+"/tasks/"):])
		}
	}
	result["listed"], result["pages"] = listed, pages

	check(client.DeleteTask(ctx, &taskspb.DeleteTaskRequest{Name: queue + "/tasks/a"}))
	_, err = client.GetTask(ctx, &taskspb.GetTaskRequest{Name: queue + "/tasks/a"})
	result["deleted"] = code(err)
	_, err = client.PurgeQueue(ctx, &taskspb.PurgeQueueRequest{Name: queue})
	check(err)
	_, err = client.ListTasks(ctx, &taskspb.ListTasksRequest{Parent: queue}).Next()
	result["purged"] = err == iterator.Done
	updated, err := client.UpdateQueue(ctx, &taskspb.UpdateQueueRequest{
		Queue:      &taskspb.Queue{Name: queue, RateLimits: &taskspb.RateLimits{MaxDispatchesPerSecond: 50}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"rate_limits.max_dispatches_per_second"}},
	})
	check(err)
	result["updated"] = []float64{float64(updated.RetryConfig.MaxAttempts), updated.RateLimits.MaxDispatchesPerSecond}
	_, err = client.GetQueue(ctx, &taskspb.GetQueueRequest{Name: queue + "-missing"})
	result["missing"] = code(err)
	_, err = client.GetQueue(ctx, &taskspb.GetQueueRequest{Name: "no name"})
	result["invalid"] = code(err)

	resumed, err := client.ResumeQueue(ctx, &taskspb.ResumeQueueRequest{Name: queue})
	check(err)
	result["resumed"] = resumed.State.String()
	_, err = client.CreateTask(ctx, task("sent", time.Now(), `{"day":"2013-01-01"}`))
	check(err)
	check(json.NewEncoder(os.Stdout).Encode(result))
}
