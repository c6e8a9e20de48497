// A tool call with the client of the Java platform as it comes: over plain http it offers HTTP/2 with each request.
//
//     java JdkClient.java URL BODY NAME=VALUE…
//
// Prints the status and the body. Several calls go over one client, since the offer is made only on new connections.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class JdkClient {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int call = 0; call < 3; call++) {
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "application/json")
                .header("Accept", "application/json, text/event-stream")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[1]));
            for (int at = 2; at < arguments.length; at++) {
                String[] header = arguments[at].split("=", 2);
                request.header(header[0], header[1]);
            }
            HttpResponse<String> answer = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
